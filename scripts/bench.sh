#!/bin/bash
# The figures of the project, each beside its limit, which is measured in the same run:
#   sandbox   fork, reset, computing, one exit from user mode (crates/sandbox/benches)
#   chain     three programs in a row against the three alone (crates/runtime/benches)
#   http      requests/s of a program against varnishd without a backend, and against nginx
#
#   scripts/bench.sh [sandbox|chain|http]...        ROUNDS=5 SECONDS_EACH=3
#
# docs/benchmarking.md says how to read them.
set -euo pipefail
cd "$(dirname "$0")/.."

for part in "${@:-sandbox chain http}"; do
  for name in $part; do
    case $name in
      sandbox) cargo bench --quiet -p tinykvm-sandbox --bench limits ;;
      chain) cargo bench --quiet -p tinykvm-runtime --bench chain ;;
      http) scripts/bench-http.sh ;;
      *) echo "bench: unknown part '$name': sandbox, chain or http" >&2; exit 1 ;;
    esac
  done
done
