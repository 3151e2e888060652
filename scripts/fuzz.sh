#!/usr/bin/env bash
# Runs every fuzzer of a build folder for some seconds each, starting from its committed corpus: fuzz.sh BUILD SECONDS
# Ends with the first one that finds something; what it found is left in BUILD/findings.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 seconds=$2
mkdir -p "$build/findings"
found=0
for fuzzer in "$build"/fuzz/fuzz_*; do
  [ -x "$fuzzer" ] && [ -f "$fuzzer" ] || continue
  name=$(basename "$fuzzer")
  corpus="$build/corpus/$name"
  mkdir -p "$corpus"
  seeds=()
  [ -d "fuzz/corpus/${name#fuzz_}" ] && seeds=("fuzz/corpus/${name#fuzz_}")
  found=$((found + 1))
  echo "fuzz: $name for $seconds s"
  "$fuzzer" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=0 -verbosity=0 \
    -artifact_prefix="$build/findings/$name-" "$corpus" "${seeds[@]}"
done
[ "$found" -gt 0 ] || { echo "fuzz: no fuzzers in $build/fuzz" >&2; exit 1; }
echo "fuzz: $found fuzzers found nothing"
