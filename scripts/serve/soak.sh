#!/bin/sh
# A server at 80% of its capacity for a long time, with two swaps on the way and a drain at the end: no request may fail,
# and memory must not grow.
#
#     scripts/serve/soak.sh                          ten minutes
#     scripts/serve/soak.sh 60                       a minute
#     INDEX=sift.kiln QUERIES=sift.hdf5 ARGS='--residency ssd' scripts/serve/soak.sh 600
#
# Prints failed requests and the growth of memory; exit code 1 where requests failed or memory grew by more than a tenth
# (and 16 MiB). Requests that find the door closed after the drain has begun were not accepted, and have not failed.

set -eu
seconds=${1:-600}
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

queries=${QUERIES:-$root/datasets/data/photosift-10k-128-euclidean.hdf5}
served=${INDEX:-}
if [ -z "$served" ]; then
  served=$work/served.kiln
  index "$served" --index vamana
fi
# ARGS is a list of words.
# shellcheck disable=SC2086
start "$served" ${ARGS:-}

load() { "$kiln" --quiet load --url "$url" --queries "$queries" "$@"; }
# failed FILE: requests of a record that failed, but for those that found the door closed.
failed() {
  sed -n 's/^ *"errors": {}.*//p; /"errors": {$/,/}/p' "$1" | grep -v '"errors"\|"connect"' |
    sed -n 's/.*: \([0-9]*\),\{0,1\}$/\1/p' | awk '{ sum += $1 } END { print sum + 0 }'
}
of_record() { sed -n "s/^ *\"$2\": \([0-9.]*\),\{0,1\}\$/\1/p" "$1" | head -n 1; }

say "capacity: a closed loop of 10 s"
load --closed --duration 10s --json "$work/capacity.json"
capacity=$(of_record "$work/capacity.json" achieved_rate)
rate=$(awk -v capacity="$capacity" 'BEGIN { printf "%.0f", 0.8 * capacity }')
before=$(resident)
say "capacity $capacity requests/s; offering $rate for $seconds s; the server holds $before KiB"

load --rate "$rate" --duration "${seconds}s" --json "$work/soak.json" &
loading=$!
third=$((seconds / 3))
for swap in 1 2; do
  sleep "$third"
  if [ "$swap" = 1 ]; then
    curl -s -X POST "$url/v1/index:swap" >"$work/swap.json"
  else
    kill -HUP "$server"
  fi
  say "swap $swap; the server holds $(resident) KiB"
done
wait "$loading"
# With both indexes of a swap gone again.
sleep 1
after=$(resident)
swaps=$(metric 'kiln_swaps_total{outcome="done"}')

say "drain in the middle of a burst of 5 s"
load --rate "$rate" --duration 5s --timeout 5s --json "$work/drain.json" &
loading=$!
# The load reads its queries and judges before it asks: the drain is to meet requests.
asked() { metric kiln_queries_total; }
before_burst=$(asked)
while kill -0 "$loading" 2>/dev/null && [ "$(asked)" = "$before_burst" ]; do sleep 0.1; done
sleep 2
kill -TERM "$server"
code=0
wait "$server" || code=$?
server=
wait "$loading" || true

for record in soak drain; do
  if [ ! -s "$work/$record.json" ]; then
    say "error: the load of the $record ended without a record"
    exit 1
  fi
done
lost=$(($(failed "$work/soak.json") + $(failed "$work/drain.json")))
growth=$((after - before))
echo "requests      $(of_record "$work/soak.json" requests), and $(of_record "$work/drain.json" requests) around the drain"
echo "p50, p99 us   $(of_record "$work/soak.json" p50), $(of_record "$work/soak.json" p99)"
echo "failed        $lost"
echo "swaps         $swaps"
echo "memory        $before KiB before, $after KiB after: $growth KiB more"
echo "exit code     $code"
if [ "$lost" -ne 0 ] || [ "$swaps" != 2 ] || [ "$code" -ne 0 ]; then exit 1; fi
if [ "$growth" -gt 16384 ] && [ "$growth" -gt $((before / 10)) ]; then exit 1; fi
