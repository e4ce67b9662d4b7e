#!/bin/bash
# Installs the Debian packages that a command of the Makefile needs and that are missing.
#
#   setup.sh build [bench] [hw] [roots]
#
# Says what it does; does nothing, in a moment, where nothing is missing. Never touches the Rust
# toolchain: Debian 12's own is too old, and which one to use is the user's choice.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }

build=(varnish libvarnishapi-dev pkg-config clang libclang-dev gcc g++ musl-tools libc6-dev
       python3 python3-docutils make curl gdb libcurl4-openssl-dev libssl-dev
       openssl ca-certificates)
bench=(wrk nginx-light)
hw=(qemu-system-x86 busybox-static cpio)
roots=(debootstrap)

wanted=()
for group in "${@:-build}"; do
  case $group in
    build) wanted+=("${build[@]}") ;;
    bench) wanted+=("${bench[@]}") ;;
    hw) wanted+=("${hw[@]}") ;;
    roots) wanted+=("${roots[@]}") ;;
    *) fail "unknown group '$group': build, bench, hw or roots" ;;
  esac
done

[ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m); TinyKVM guests and hosts are x86-64."

need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || ! command -v cargo >/dev/null; then
  fail "no Rust toolchain found (rustc and cargo, $need or newer)." \
       "Install one from https://rustup.rs and start again in a shell that has it in its PATH."
fi
if [ "$(printf '%s\n%s\n' "$need" "${have%%-*}" | sort -V | head -n 1)" != "$need" ]; then
  fail "rustc is $have; the project needs $need or newer (rustup update)."
fi

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$status" = 'install ok installed' ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || fail "missing: ${missing[*]}" \
  "These are Debian's names; install what your distribution calls them."
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || fail "missing packages; run as root: apt-get install ${missing[*]}"
  as_root=(sudo)
fi
say "installing ${missing[*]}"
log=$(mktemp); trap 'rm -f "$log"' EXIT
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1
}
if ! install; then
  say 'the package lists are missing or old: apt-get update'
  "${as_root[@]}" apt-get update >"$log" 2>&1 || { cat "$log" >&2; fail 'apt-get update failed (above)'; }
  install || { cat "$log" >&2; fail 'apt-get install failed (above)'; }
fi
say 'done'
