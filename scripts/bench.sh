#!/bin/bash
# The figures of the project, each beside its limit, which is measured in the same run:
#   sandbox   fork, reset, computing, one exit from user mode (crates/sandbox/benches)
#   stream    bodies made and taken in parts against bodies in one piece (crates/runtime/benches)
#   chain     three programs in a row against the three alone (crates/runtime/benches)
#   http      requests/s of a program against varnishd without a backend, and against nginx
#
#   scripts/bench.sh [sandbox|chain|stream|http]...        ROUNDS=15 SECONDS_EACH=1
#
# docs/benchmarking.md says how to read them.
set -euo pipefail
cd "$(dirname "$0")/.."

for part in "${@:-sandbox chain stream http}"; do
  for name in $part; do
    case $name in
      sandbox) cargo bench --quiet -p tinykvm-sandbox --bench limits ;;
      chain) cargo bench --quiet -p tinykvm-runtime --bench chain ;;
      stream) cargo bench --quiet -p tinykvm-runtime --bench stream ;;
      http) scripts/bench-http.sh ;;
      *) echo "bench: unknown part '$name': sandbox, chain, stream or http" >&2; exit 1 ;;
    esac
  done
done
