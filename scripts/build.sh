#!/bin/bash
# Builds the module, and its manual page from the interface (vmod/vmod_tinykvm.vcc), which build.rs has
# put through Varnish's vmodtool: libvmod_tinykvm.so and vmod_tinykvm.3 in target/release.
set -euo pipefail
cd "$(dirname "$0")/.."
release=${CARGO_TARGET_DIR:-target}/release

# Where build.rs leaves the manual is cargo's choice; cargo says so among other things.
manual=$(cargo build --release --message-format=json-render-diagnostics | python3 -c '
import json, os, sys
for line in sys.stdin:
    said = json.loads(line)
    manual = os.path.join(said.get("out_dir", ""), "vmod_tinykvm.man.rst")
    if said["reason"] == "build-script-executed" and os.path.exists(manual):
        print(manual)
')
scripts/man.sh "$manual" "$release/vmod_tinykvm.3"
