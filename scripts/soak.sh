#!/bin/bash
# VCLs are loaded, used and discarded under load, 1,000 times by default: what the cache child holds
# may not grow. Prints figures as it goes and fails if they do grow, or if a request does.
#
#   scripts/soak.sh [CYCLES]
#
# Each cycle loads a VCL with two programs, one defined as in all other VCLs and one of its own, uses
# it, asks both, and discards the VCL before it; every tenth also goes through a label, a cold VCL and
# a load that fails. Four connections ask the shared program all the time.
set -euo pipefail
cd "$(dirname "$0")/.."
cycles=${1:-1000}

source scripts/varnishd.sh
choose_jail
cargo build --release --quiet
mkdir -p "$work/varnish"
for name in hello answer; do
  gcc -static -O2 -I guest/c/include "tests/guests/programs/$name.c" -o "$work/varnish/$name"
done

vcl() { # SETTINGS-OF-THE-OWN-PROGRAM
  cat <<VCL
vcl 4.1;
import tinykvm;
backend default none;
sub vcl_init {
  tinykvm.configure("shared", """{ "filename": "$work/varnish/hello", "concurrency": 2 }""");
  tinykvm.configure("own", """{ "filename": "$work/varnish/answer", $1 }""");
  tinykvm.start("own");
}
sub vcl_recv { return (pass); }
sub vcl_backend_fetch {
  if (bereq.url ~ "^/own") { set bereq.backend = tinykvm.program("own", bereq.url); }
  else { set bereq.backend = tinykvm.program("shared"); }
}
VCL
}
vcl '"concurrency": 1' >"$work/first.vcl"
vcl '"concurrency": "many"' >"$work/bad.vcl"

# Compiling VCL takes most of the time: without optimization half of it. In vtc_mode a worker without
# work lets go of the VCL it used last after 1 s, not 60.
start_varnishd "$work/first.vcl" -p cc_command="exec gcc -O0 -w -fpic -shared -o %o %s" \
  -p vcl_cooldown=1 -p auto_restart=off -p debug=+vtc_mode
n=$work/varnish
admin() { varnishadm -t 60 -n "$n" "$@"; }
admin vcl.label labelled boot >/dev/null
child=$(admin pid | awk '$1 == "Worker:" { print $2 }')

fail() {
  printf 'soak: %s\n' "$@" >&2
  admin panic.show >&2 || true
  exit 1
}

ask() { # PATH EXPECTED
  local answer
  answer=$(curl -sS --max-time 60 "$url$1" 2>&1) || fail "$1: $answer"
  [ "$answer" = "$2" ] || fail "$1 answers '$answer'"
}

# vms vcpus images fds threads mappings anonymous-KiB; varnishd's own threads are as many as the load
# wants, and are not counted.
figures() {
  local links
  links=$(ls -l "/proc/$child/fd" 2>/dev/null)
  printf '%s %s %s %s %s %s %s\n' \
    "$(grep -c kvm-vm <<<"$links")" "$(grep -c kvm-vcpu <<<"$links")" "$(grep -c memfd: <<<"$links")" \
    "$(grep -vc socket: <<<"$links")" "$(cat /proc/"$child"/task/*/comm 2>/dev/null | grep -c tinykvm)" \
    "$(wc -l <"/proc/$child/maps")" "$(awk '$1 == "RssAnon:" { print $2 }' "/proc/$child/status")"
}

# The figures, when what has been discarded is gone. A thread of varnishd that waits for connections
# keeps the VCL it used before, until a connection comes.
settled() {
  local now before=
  for _ in $(seq 300); do
    for _ in 1 2 3 4; do ask /shared 'Hello World'; done
    admin vcl.list >"$work/list"
    now=$(figures)
    if ! grep -q discarded "$work/list" && [ "${now% * *}" = "$before" ]; then break; fi
    before=${now% * *}
    sleep 0.2
  done
  figures
}

# Some 500 requests per second, and each answer is looked at.
python3 - "$url" "$work/stop" >"$work/load.log" 2>&1 <<'PYTHON' &
import http.client
import os
import sys
import threading
import time

url, stop = sys.argv[1].removeprefix("http://"), sys.argv[2]
asked, wrong = [0] * 4, []


def ask(number):
    connection = http.client.HTTPConnection(url, timeout=60)
    while not os.path.exists(stop):
        try:
            connection.request("GET", "/load")
            answer = connection.getresponse()
            what = answer.status, answer.read()
        except OSError as error:
            what = repr(error)
            connection.close()
        asked[number] += 1
        if what != (200, b"Hello World"):
            wrong.append(what)
        time.sleep(0.005)


threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(asked), "requests,", len(wrong), "wrong answers")
if wrong or not sum(asked):
    sys.exit(f"for example {wrong[:3]}")
PYTHON
load=$!
echo $load >"$work/load.pid"

cycle() {
  local i=$1 used=$2
  # The same after each ten cycles, when figures are taken.
  vcl "\"concurrency\": $((i % 2 + 1)), \"max_request_time\": $((i % 5 + 10))" >"$work/next.vcl"
  admin vcl.load "vcl$i" "$work/next.vcl" >/dev/null
  admin vcl.use "vcl$i" >/dev/null
  ask "/own/$i" "GET /own/$i  0"
  ask /shared 'Hello World'
  if ((i % 10 == 0)); then
    admin vcl.label labelled "vcl$i" >/dev/null
    admin vcl.load cold "$work/first.vcl" cold >/dev/null
    admin vcl.state cold warm >/dev/null
    admin vcl.state cold cold >/dev/null
    admin vcl.discard cold >/dev/null
    if admin vcl.load bad "$work/bad.vcl" >/dev/null 2>&1; then fail 'a bad VCL loads'; fi
  fi
  case $used in
    boot | *0) ;; # behind the label until the next one is
    *) admin vcl.discard "$used" >/dev/null ;;
  esac
  if ((i % 10 == 0)); then
    if ((i == 10)); then admin vcl.discard boot >/dev/null; else admin vcl.discard "vcl$((i - 10))" >/dev/null; fi
  fi
}

step=$(((cycles + 9) / 10))
((step < 10)) && step=10
step=$(((step + 9) / 10 * 10))
begun=$SECONDS
used=boot
printf '%8s %5s %5s %6s %5s %7s %8s %10s\n' cycles vms vcpus images fds threads mappings anon-KiB
for i in $(seq "$cycles"); do
  cycle "$i" "$used"
  used=vcl$i
  if ((i % step == 0)); then
    settled >"$work/figures.$i"
    # shellcheck disable=SC2046
    printf '%8s %5s %5s %6s %5s %7s %8s %10s\n' "$i" $(cat "$work/figures.$i")
  fi
done

touch "$work/stop"
wait $load || fail "$(cat "$work/load.log")"
rm "$work/load.pid"
cat "$work/load.log"
echo "$cycles cycles in $((SECONDS - begun)) s"

failed=$(varnishstat -n "$n" -1 -f MAIN.fetch_failed | awk '{ print $2 }')
[ "$failed" = 0 ] || fail "$failed fetches failed"

# The first ten percent are for caches to fill: memory may grow by an eighth (4 MiB) from then on.
python3 - "$work/figures.$step" "$work/figures.$((cycles / step * step))" <<'PYTHON'
import sys

first, last = ([int(n) for n in open(path, encoding="ascii").read().split()] for path in sys.argv[1:])
names = ["VMs", "virtual CPUs", "images", "descriptors", "threads", "mappings", "KiB of memory"]
slack = [0, 0, 0, 0, 0, 8, max(first[6] // 8, 4096)]
grown = [
    f"{name}: {before}, then {after}"
    for name, before, after, more in zip(names, first, last, slack)
    if after > before + more
]
if grown:
    sys.exit("soak: it grows: " + "; ".join(grown))
print("soak: nothing grows")
PYTHON
