#!/usr/bin/env bash
# Runs every fuzzer of a build folder for some seconds each, as many at once as there are CPUs, starting from its committed
# corpus: fuzz.sh BUILD SECONDS
# Fails if one finds something, which is left in BUILD/findings with the fuzzer's log.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 seconds=$2
mkdir -p "$build/findings"

run_one() {  # fuzzer
  local name log corpus seeds=()
  name=$(basename "$1")
  log="$build/findings/$name.log"
  corpus="$build/corpus/$name"
  mkdir -p "$corpus"
  [ -d "fuzz/corpus/${name#fuzz_}" ] && seeds=("fuzz/corpus/${name#fuzz_}")
  echo "fuzz: $name for $seconds s"
  "$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=0 -verbosity=0 \
    -artifact_prefix="$build/findings/$name-" "$corpus" "${seeds[@]}" > "$log" 2>&1 ||
    { tail -n 60 "$log"; echo "fuzz: $name found something: $build/findings"; return 1; }
}
export -f run_one
export build seconds

mapfile -t fuzzers < <(find "$build/fuzz" -maxdepth 1 -name 'fuzz_*' -type f -executable | sort)
[ ${#fuzzers[@]} -gt 0 ] || { echo "fuzz: no fuzzers in $build/fuzz" >&2; exit 1; }
printf '%s\n' "${fuzzers[@]}" | xargs -P "$(nproc)" -I{} bash -c 'set -euo pipefail; run_one {}'
echo "fuzz: ${#fuzzers[@]} fuzzers found nothing"
