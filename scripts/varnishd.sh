# shellcheck shell=bash
# Sourced by demo.sh and bench-http.sh: a varnishd of their own with the VMOD, in a folder of its own.
# Sets `target` and `work` (the folder), later `jail` and `url`. Whoever has a pid file in `work`, and the
# folder itself, ends with the script.

target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d "${TMPDIR:-/tmp}/tinykvm.XXXXXX")
chmod 755 "$work"

stop_all() {
  local file pid
  for file in "$work"/*.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || continue
    timeout 10 tail --pid="$pid" -f /dev/null || kill -9 "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap stop_all EXIT
trap 'exit 130' INT TERM HUP

# Sets `jail` for a varnishd whose child can open /dev/kvm, or explains what to do.
choose_jail() {
  local mode
  jail=()
  if [ ! -e /dev/kvm ]; then
    printf '%s\n' 'There is no /dev/kvm, so no virtual machine can run here.' \
      '  A physical machine: turn on VT-x or SVM in its firmware, then: modprobe kvm_intel (or kvm_amd).' \
      '  A cloud machine: choose a type with nested virtualization, or one whose kernel has PVM.' \
      '  A container: start it with --device /dev/kvm.' >&2
    exit 1
  fi
  mode=$(stat -c '%A %U:%G' /dev/kvm)
  if [ "$(id -u)" != 0 ]; then
    if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
      printf '%s\n' "/dev/kvm ($mode) is not accessible to you ($(id -un)), and varnishd runs as you." \
        "  As root: usermod -aG kvm $(id -un) where its group is kvm, then log in again;" \
        '  otherwise: chmod 0666 /dev/kvm, or run this as root.' >&2
      exit 1
    fi
    return
  fi
  # Started as root, varnishd's child runs as vcache.
  if ! runuser -u vcache -- test -r /dev/kvm -a -w /dev/kvm 2>/dev/null; then
    jail=(-j none)
    printf '%s\n' "Note: /dev/kvm ($mode) is closed to user vcache, as which varnishd's child runs." \
      '  This varnishd gets -j none: its child stays root. On your own machine rather open the device:' \
      '  usermod -aG kvm vcache where its group is kvm, otherwise chmod 0666 /dev/kvm, and restart varnish.'
  fi
}

# start_varnishd VCL [OPTION...]
start_varnishd() {
  local vcl=$1 output address vmods
  shift
  # Varnish's own modules, for VCLs that use them.
  vmods=$(pkg-config --variable=vmoddir varnishapi)
  install -m 755 "$target"/release/libvmod_tinykvm.so "$work/"
  mkdir -p "$work/varnish"
  if ! output=$(varnishd "${jail[@]}" -n "$work/varnish" -P "$work/varnishd.pid" -a 127.0.0.1:0 \
      -p vmod_path="$work:$vmods" -b none "$@" 2>&1); then
    printf '%s\n' 'varnishd does not start:' "$output" >&2
    exit 1
  fi
  # Loaded into a running varnishd: of a VCL that fails at its start it tells no more than
  # "CLI result = 300".
  if ! output=$(varnishadm -t 60 -n "$work/varnish" vcl.load main "$vcl" 2>&1); then
    printf '%s\n' "$vcl is refused:" "$output" >&2
    exit 1
  fi
  varnishadm -t 60 -n "$work/varnish" vcl.use main >/dev/null
  address=$(varnishadm -t 60 -n "$work/varnish" debug.listen_address | awk '$1 == "a0" { print $2 ":" $3; exit }')
  if [ -z "$address" ]; then
    printf '%s\n' 'varnishd started, but its child does not listen:' "$output" >&2
    varnishadm -t 60 -n "$work/varnish" panic.show >&2 || true
    exit 1
  fi
  url=http://$address
}
