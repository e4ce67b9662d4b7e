#!/bin/bash
# Runs a command in a Debian root (scripts/varnish-root.sh) that sees this machine's devices, /tmp
# and the project where they are out here.
#
#   scripts/in-root.sh ROOT COMMAND...
#
# The mounts are in a mount namespace of their own: they end with the command, however it ends.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$project/target}

exec unshare --mount --propagation private bash -c '
  set -eu
  root=$1 project=$2 target=$3 here=$PWD
  shift 3
  for folder in /dev /proc /sys /tmp; do mount --rbind "$folder" "$root$folder"; done
  for folder in "$project" "$target"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
  done
  exec chroot "$root" sh -c "cd \"\$1\" && shift && exec \"\$@\"" in-root "$here" "$@"' \
  in-root "$(realpath "$1")" "$project" "$(realpath "$target")" "${@:2}"
