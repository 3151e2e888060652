#!/usr/bin/env bash
# `make run` without a terminal must answer and exit 0.
set -euo pipefail
cd "$(dirname "$0")/.."
answer=$(make --no-print-directory run < /dev/null 2> build/demo.stderr) || { cat build/demo.stderr >&2; echo "make run failed" >&2; exit 1; }
[ -n "$answer" ] || { cat build/demo.stderr >&2; echo "make run answered nothing" >&2; exit 1; }
echo "make run answered $(printf '%s' "$answer" | wc -m) characters"
