#!/bin/bash
# The tests that meet KVM or varnishd, in a machine with AMD SVM (scripts/svm-vm.sh): the sandbox,
# the runtime and the VMOD. Test binaries and guest programs are built out here, at full speed.
# Further arguments go to the runner (a test's name). All of it takes most of an hour. Leave target/
# alone while it runs: the machine reads it all the time.
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
  exec scripts/svm-vm.sh "${inside[@]}" cargo-nextest nextest run --profile hw --color never \
    --binaries-metadata "$target/hw/binaries.json" --cargo-metadata "$target/hw/workspace.json" "$@"
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
