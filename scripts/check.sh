#!/bin/bash
# The gate that needs no KVM: format, lints at deny, warnings of C as errors (build.rs), licences.
set -euo pipefail
cd "$(dirname "$0")/.."

echo 'check: rustfmt'
cargo fmt --all --check
echo 'check: clippy'
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
echo 'check: rustdoc'
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked --quiet
echo 'check: dependencies'
if cargo deny --version >/dev/null 2>&1; then
  cargo deny --all-features check bans licenses sources
else
  scripts/check-dependencies.py
fi
echo 'check: shell scripts'
for script in scripts/*.sh .ci/run; do
  bash -n "$script"
done
echo 'check: all good'
