#!/bin/bash
# man.sh FROM TO: a manual page from the text that vmodtool.py makes of the interface.
set -euo pipefail

# Debian's name, and that of others.
for tool in rst2man rst2man.py; do
  if command -v "$tool" >/dev/null; then
    # Anything docutils complains about is an error.
    "$tool" --halt=2 "$1" "$2.new"
    exec mv "$2.new" "$2"
  fi
done
echo 'man: rst2man is missing: install the Debian package python3-docutils' >&2
exit 1
