#!/bin/bash
# install.sh install|uninstall: what `make build` has made, to where Varnish and man look for it.
#
#   PREFIX=/usr/local   manual page, header and examples
#   VMODDIR=...         the module; without it where pkg-config says that Varnish looks
#   DESTDIR=            goes before all of them, for packages
#   BUILT=...           where the module and its manual page are (target/release)
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'install: %s\n' "$@" >&2; exit 1; }

prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
built=${BUILT:-${CARGO_TARGET_DIR:-target}/release}

vmoddir=${VMODDIR:-}
for package in varnishapi vinylapi; do
  [ -n "$vmoddir" ] || vmoddir=$(pkg-config --variable=vmoddir "$package" 2>/dev/null || true)
done
[ -n "$vmoddir" ] || fail 'pkg-config knows no varnishapi: install libvarnishapi-dev, or say VMODDIR=...'

modules=$destdir$vmoddir
manuals=$destdir$prefix/share/man/man3
headers=$destdir$prefix/include/tinykvm
examples=$destdir$prefix/share/doc/libvmod-tinykvm/examples

# put MODE FILE FOLDER
put() {
  install -d "$3" || fail "cannot write to $3: run this as root, or say DESTDIR=... or PREFIX=..."
  install -m "$1" "$2" "$3/"
  echo "  $3/$(basename "$2")"
}

case ${1:-} in
  install)
    for file in libvmod_tinykvm.so vmod_tinykvm.3; do
      [ -f "$built/$file" ] || fail "$built/$file is not there: make build"
    done
    put 644 "$built/libvmod_tinykvm.so" "$modules"
    put 644 "$built/vmod_tinykvm.3" "$manuals"
    put 644 guest/c/include/kvm_api.h "$headers"
    for file in vcl/*.vcl examples/*/*.c; do put 644 "$file" "$examples"; done
    ;;
  uninstall)
    rm -f "$modules/libvmod_tinykvm.so" "$manuals/vmod_tinykvm.3"
    # These folders are ours alone.
    rm -rf "$headers" "$destdir$prefix/share/doc/libvmod-tinykvm"
    ;;
  *) fail 'usage: install.sh install|uninstall' ;;
esac
