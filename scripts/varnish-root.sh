#!/bin/bash
# Makes, once, a Debian in a folder that has one version of Varnish, and prints where it is: nothing
# where this machine has that very version.
#
#   scripts/varnish-root.sh 7.7        (root, for debootstrap; about a minute and 700 MB)
#
# A root is made under another name and renamed when it is whole, so a half-made one is never used.
# Several may ask at the same time: one makes it, the others wait.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'varnish-root: %s\n' "$*" >&2; }
fail() { printf 'varnish-root: %s\n' "$@" >&2; exit 1; }

version=${1:-}
case $version in
  7.1) suite=bookworm packages=(varnish libvarnishapi-dev) ;;
  7.7) suite=trixie packages=(varnish libvarnishapi-dev) ;;
  9.0) suite=sid packages=(vinyl-cache libvinylapi-dev) ;;
  *) fail "unknown version '$version': 7.1, 7.7 or 9.0 (Vinyl Cache)" ;;
esac
# What the .vtc files' shell commands use, and the libraries of the module.
packages+=(libcurl4 procps curl python3-minimal gdb)

installed=$(pkg-config --modversion varnishapi 2>/dev/null || pkg-config --modversion vinylapi 2>/dev/null || true)
if [ "${installed%.*}" = "$version" ]; then
  exit 0
fi

roots=${TINYKVM_ROOTS:-$PWD/target/roots}
root=$roots/$suite
made_of="$version ${packages[*]}"
whole() { [ "$(cat "$root/made-of" 2>/dev/null)" = "$made_of" ]; }
if whole; then
  echo "$root"
  exit 0
fi

[ "$(id -u)" = 0 ] || fail "Debian's $suite has to be set up in $root: run this as root."
mkdir -p "$roots"
exec 9>"$roots/$suite.lock"
flock 9
if whole; then
  echo "$root"
  exit 0
fi

command -v debootstrap >/dev/null || scripts/setup.sh roots >&2
say "making $root: Debian $suite with ${packages[0]}"
log=$roots/$suite.log
# In a mount namespace of its own: what debootstrap mounts is gone when it ends, so nothing here can
# be removed through a mount.
if ! unshare --mount --propagation private bash -euo pipefail -s "$suite" "$root" "${packages[@]}" >"$log" 2>&1 <<'MAKE'
suite=$1 root=$2
shift 2
rm -rf "$root" "$root.new"
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root.new" http://deb.debian.org/debian
mount -t proc proc "$root.new/proc"
cp /etc/hosts "$root.new/etc/hosts"
# Services do not start in there; a mirror may stand still for longer than sid's lists are valid.
printf '#!/bin/sh\nexit 101\n' >"$root.new/usr/sbin/policy-rc.d"
chmod 755 "$root.new/usr/sbin/policy-rc.d"
apt=(chroot "$root.new" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Check-Valid-Until=false)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "$@"
"${apt[@]}" clean
umount "$root.new/proc"
MAKE
then
  tail -n 20 "$log" >&2
  fail "that did not work; all of it is in $log"
fi
echo "$made_of" >"$root.new/made-of"
mv "$root.new" "$root"
echo "$root"
