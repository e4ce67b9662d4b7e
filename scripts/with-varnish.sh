#!/bin/bash
# Runs a command, cargo as a rule, for another version of Varnish than this machine's:
#
#   scripts/with-varnish.sh 7.7 cargo build --release
#
# build.rs reads VARNISH_ROOT and tests/vtc.rs runs varnishtest in that root. What is built goes to
# target/varnish-7.7, which starts as a copy of what is built already: most of it is the same.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?usage: scripts/with-varnish.sh VERSION COMMAND...}
shift
root=$(scripts/varnish-root.sh "$version")
[ -n "$root" ] || exec "$@"

from=${CARGO_TARGET_DIR:-$PWD/target}
to=$from/varnish-$version
if [ ! -d "$to" ]; then
  rm -rf "$to.new"
  mkdir -p "$to.new" "$from/guests"
  for profile in debug release; do
    [ ! -d "$from/$profile" ] || (cd "$from" && cp -a --parents "$profile"/{.fingerprint,build,deps} "$to.new/")
  done
  ln -s ../guests "$to.new/guests"
  mv "$to.new" "$to"
fi
export VARNISH_ROOT=$root CARGO_TARGET_DIR=$to
exec "$@"
