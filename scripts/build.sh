#!/bin/bash
# Builds the module, and its manual page from the interface (vmod/vmod_tinykvm.vcc), which build.rs has
# put through Varnish's vmodtool: libvmod_tinykvm.so and vmod_tinykvm.3 in target/release.
set -euo pipefail
cd "$(dirname "$0")/.."
release=${CARGO_TARGET_DIR:-target}/release

cargo build --release
# Where build.rs left the manual is cargo's choice, and cargo says so.
out=$(cargo build --release --quiet --package libvmod-tinykvm --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if said["reason"] == "build-script-executed" and "libvmod-tinykvm" in said["package_id"]:
        print(said["out_dir"])
')
scripts/man.sh "$out/vmod_tinykvm.man.rst" "$release/vmod_tinykvm.3"
