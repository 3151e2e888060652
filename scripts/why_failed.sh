#!/usr/bin/env bash
# After a run of ctest: of each test that failed, the few lines that say why, for a log of which only the end is kept:
# why_failed.sh BUILD
set -euo pipefail
awk '
  /^[0-9]+\/[0-9]+ Test: / { name = $3; why = ""; lines = 0 }
  /^(FAIL|ERROR): |^[A-Za-z.]*(Error|Exception|Timeout)[A-Za-z]*: |: Failure$|^\[  FAILED  \]/ {
    if (lines++ < 4) why = why "\n    " substr($0, 1, 300)
  }
  /^Test (Failed|Not Run|Timeout)/ { print "why: " name why }
' "$1/Testing/Temporary/LastTest.log"
