#!/bin/bash
# Every test of the project: documentation examples first, then unit, integration and .vtc tests, so
# that the runner's summary is the last line. Further arguments go to the runner (a test's name).
#
# A test that needs /dev/kvm says so and passes where there is none, except with CI set: there a
# skip is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
  cargo test --workspace --doc --quiet
fi
if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --workspace "$@"
fi
exec cargo test --workspace --lib --bins --tests "$@"
