#!/bin/bash
# The tests that meet KVM or varnishd, in a machine with AMD SVM (scripts/svm-vm.sh): the sandbox,
# the runtime and the VMOD. Test binaries and guest programs are built out here, at full speed.
# Further arguments go to the runner (a test's name). Without any, each of several machines takes its
# share of the tests (HW_MACHINES; as many as there are CPUs, and 7 GiB of memory for each): some 40
# minutes divided by their number. Leave target/ alone while they run: they read it all the time.
#
# TINYKVM_TEST_SLOW tells tests that their CPU is emulated: limits meant to catch a hang are longer
# there, and nothing is measured.
set -euo pipefail
cd "$(dirname "$0")/.."

select=(--workspace --exclude tinykvm-sys --exclude tinykvm-test-guests)

export SVM_TIMEOUT=${SVM_TIMEOUT:-7200}
inside=(env TINYKVM_TEST_SLOW=1 CI="${CI:-true}")
target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target/hw"

# The guest programs that the tests use, so that no compiler runs in the emulated machine.
cargo test --quiet -p tinykvm-test-guests

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest list "${select[@]}" --list-type binaries-only --message-format json > "$target/hw/binaries.json"
  cargo metadata --format-version 1 --locked > "$target/hw/workspace.json"
  run=(scripts/svm-vm.sh "${inside[@]}" cargo-nextest nextest run --profile hw --color never
    --binaries-metadata "$target/hw/binaries.json" --cargo-metadata "$target/hw/workspace.json")
  fit=$(awk '/^MemAvailable/ { print int($2 / (7 * 1024 * 1024)) }' /proc/meminfo)
  machines=${HW_MACHINES:-$(printf '%s\n' "$(nproc)" "$((fit > 0 ? fit : 1))" | sort -n | head -n 1)}
  if [ $# -gt 0 ] || [ "$machines" = 1 ]; then exec "${run[@]}" "$@"; fi
  running=()
  # Each is a process group; those that are left when this ends early end with it.
  trap 'for pid in "${running[@]}"; do kill -- "-$pid" 2>/dev/null || true; done' EXIT
  trap 'exit 130' INT TERM HUP
  for machine in $(seq "$machines"); do
    setsid "${run[@]}" --partition "count:$machine/$machines" > >(sed -u "s/^/$machine| /") 2>&1 &
    running+=($!)
  done
  failed=0
  for pid in "${running[@]}"; do wait "$pid" || failed=$((failed + 1)); done
  echo "test-hw: $failed of $machines machines failed"
  [ "$failed" = 0 ]
  exit
fi

cargo test "${select[@]}" --lib --tests --no-run --message-format json-render-diagnostics |
  python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        print(message["executable"], message["manifest_path"].removesuffix("/Cargo.toml"))
' > "$target/hw/binaries.txt"
exec scripts/svm-vm.sh "${inside[@]}" bash -c '
  failed=0
  while read -r binary folder; do
    echo "== $binary"
    (cd "$folder" && CARGO_MANIFEST_DIR=$folder "$binary" "${@:2}") || failed=$((failed + 1))
  done < "$1"
  echo "test-hw: $failed test binaries failed"
  [ "$failed" = 0 ]' test-hw "$target/hw/binaries.txt" "$@"
