#!/bin/bash
# Builds the VMOD, starts varnishd with an example program and asks it over HTTP. Leaves nothing
# behind but target/.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build

bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || bold() { printf '\n== %s\n' "$*"; }

source scripts/varnishd.sh
choose_jail

bold 'Building the VMOD and compiling examples/hello/hello.c'
cargo build --release --quiet
mkdir -p "$work/varnish"
gcc -static -O2 -Wall -I guest/c/include examples/hello/hello.c -o "$work/varnish/hello"
chmod 755 "$work/varnish/hello"
ls -lh "$target/release/libvmod_tinykvm.so" "$work/varnish/hello" | awk '{ print "  " $5 "  " $NF }'

bold 'Starting varnishd with vcl/hello.vcl'
start_varnishd "$PWD/vcl/hello.vcl"
echo "  $(varnishd -V 2>&1 | head -n 1 | sed 's/.*(varnish-\([0-9.]*\).*/Varnish \1/'), at $url"

ask() {
  echo "  \$ curl -i ${*@Q}"
  curl -sS -i --max-time 60 "$@" | tr -d '\r' | sed 's/^/  | /'
  echo
}

bold 'A GET: the program is loaded, runs to where it waits for requests, and is frozen; a copy of it answers'
ask "$url/first"
bold 'Another one: what the first request changed in its machine has been undone, so it is number 1 again'
ask "$url/second"
bold 'The same again: Varnish answers from its cache (X-Varnish names two transactions), no machine runs'
ask "$url/second"
bold 'A POST: the body goes into the machine and comes back'
ask -H 'Content-Type: text/plain' -d 'ping' "$url/post"

bold 'What Varnish logged about it'
varnishlog -n "$work/varnish" -d -g request -q 'ReqURL eq "/post"' \
  -i Begin,ReqMethod,ReqURL,VCL_Log,Error,FetchError,BerespStatus,BackendOpen,TTL 2>/dev/null | sed 's/^/  /'

bold 'Statistics of the program, as tinykvm.stats() gives them (totals only)'
curl -sS --max-time 10 "$url/stats" | python3 -c '
import json, sys
stats = json.load(sys.stdin)
for name, program in (stats or {}).items():
    totals = program["request"]["totals"]
    machines = len(program["request"]["machines"])
    print(f"  {name}: {machines} machines")
    for key, value in sorted(totals.items()):
        if value:
            print(f"    {key:20} " + (f"{value * 1e6:.0f} us" if key.endswith("_time") else f"{value}"))
'

bold 'What happened'
cat <<'TEXT'
  varnishd loaded libvmod_tinykvm.so and, at the first request, the program: an ordinary static Linux
  executable. Its main() ran once in a KVM machine without an operating system and was then frozen.
  Each request ran in a copy-on-write copy of that, inside varnishd's child process, and all it had
  changed was undone afterwards. To Varnish the program is a backend: answers can be cached, and a
  crash costs only the request that caused it.
  Next: README.md, guest/README.md (write a program), docs/operations.md (run it).
TEXT
