#!/bin/bash
# Requests per second through one varnishd, asked by wrk with 1 and with 8 connections:
#   base    return (pass), then return (error(200)) in vcl_backend_fetch and a synthetic body: all of
#           Varnish's fetch machinery and no backend
#   hello   the same body from tinykvm.program(), concurrency 4
#   nginx   the same body from nginx over loopback
# The three take turns in every round, so that a noisy neighbour hits all of them; a ratio is made
# within a round, and the median over the rounds is what counts: many short rounds, because noise comes in
# seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-15}
seconds=${SECONDS_EACH:-1}

source scripts/varnishd.sh
choose_jail
cargo build --release --quiet
mkdir -p "$work/varnish"
gcc -static -O2 -I guest/c/include tests/guests/programs/hello.c -o "$work/varnish/hello"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$work/nginx.conf" <<CONF
worker_processes auto;
pid $work/nginx.pid;
error_log $work/nginx.log;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 100000000;
  server {
    listen 127.0.0.1:$port;
    default_type text/plain;
    location / { return 200 "Hello World"; }
  }
}
CONF
nginx -c "$work/nginx.conf" -e "$work/nginx.log"

cat > "$work/bench.vcl" <<VCL
vcl 4.1;
import tinykvm;
backend nginx { .host = "127.0.0.1"; .port = "$port"; }
sub vcl_init {
  tinykvm.configure("hello", """{ "filename": "$work/varnish/hello", "concurrency": 4 }""");
}
sub vcl_recv { return (pass); }
sub vcl_backend_fetch {
  if (bereq.url == "/base") { return (error(200)); }
  if (bereq.url == "/hello") { set bereq.backend = tinykvm.program("hello"); }
  return (fetch);
}
sub vcl_backend_error {
  set beresp.http.Content-Type = "text/plain";
  set beresp.body = "Hello World";
  return (deliver);
}
VCL
start_varnishd "$work/bench.vcl" -p thread_pool_min=50

for name in base hello nginx; do
  answer=$(curl -sS --max-time 30 -w ' %{http_code}' "$url/$name")
  if [ "$answer" != 'Hello World 200' ]; then
    echo "bench: /$name answers '$answer'" >&2
    varnishlog -n "$work/varnish" -d -g raw -i Error,FetchError,VCL_Error,VCL_Log >&2
    exit 1
  fi
done

ask() { # NAME CONNECTIONS SECONDS
  local output
  output=$(wrk -t 1 -c "$2" -d "$3s" "$url/$1")
  if grep -E 'Non-2xx|Socket errors' <<<"$output" >&2; then
    echo "bench: /$1 had errors" >&2
    varnishadm -t 60 -n "$work/varnish" panic.show >&2 || true
    varnishstat -n "$work/varnish" -1 -f 'MGT.child_*' >&2
    exit 1
  fi
  awk '/Requests\/sec/ { print $2 }' <<<"$output"
}

for connections in 1 8; do
  for name in base hello nginx; do ask "$name" "$connections" 1 >/dev/null; done
  for round in $(seq "$rounds"); do
    for name in base hello nginx; do
      rate=$(ask "$name" "$connections" "$seconds")
      echo "$connections $round $name $rate"
      printf '  %s connection(s), round %s: %-5s %8.0f/s\n' "$connections" "$round" "$name" "$rate" >&2
    done
  done
done > "$work/rates"

python3 - "$work/rates" <<'PYTHON'
import sys
from collections import defaultdict
from statistics import median

rates = defaultdict(dict)
for line in open(sys.argv[1], encoding="ascii"):
    connections, turn, name, rate = line.split()
    rates[int(connections), name][int(turn)] = float(rate)

print("\nconnections     base/s    hello/s    nginx/s   hello/base (rounds)         nginx/base")
for connections in sorted({connections for connections, _ in rates}):
    base, hello, nginx = (rates[connections, name] for name in ("base", "hello", "nginx"))
    ratio = sorted(hello[turn] / base[turn] for turn in base)
    other = median(nginx[turn] / base[turn] for turn in base)
    print(
        f"{connections:11} {median(base.values()):10.0f} {median(hello.values()):10.0f} "
        f"{median(nginx.values()):10.0f}   {median(ratio):.3f} ({ratio[0]:.3f}..{ratio[-1]:.3f})"
        f"       {other:.3f}"
    )
PYTHON
