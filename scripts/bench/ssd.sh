#!/bin/sh
# Measures searches of a graph on the drive against what the drive gives: queries a second, latency, pages a query, and the
# share of the drive's own random reads.
#
#     sh scripts/bench/ssd.sh SET.hdf5 X.kiln [LIST ...]     lists default to 20 24 28 32 36 40 50 60
#     KILN=target/release/kiln RUNS=3 MEMORY=64MiB IO=pread sh scripts/bench/ssd.sh ...
#
# fio, where it is there, reads 4 KiB at random from the index file itself, past the page cache, 64 requests deep: the
# ceiling. Every setting is run RUNS times and the run of median queries a second is printed, one line a setting. Nothing else
# should run on the machine meanwhile.

set -eu

usage() { echo "usage: sh scripts/bench/ssd.sh SET.hdf5 X.kiln [LIST ...]" >&2; exit 2; }
[ $# -ge 2 ] || usage
queries=$1
index=$2
shift 2
[ $# -gt 0 ] || set -- 20 24 28 32 36 40 50 60

here=$(cd "$(dirname "$0")/../.." && pwd)
kiln=${KILN:-$here/target/release/kiln}
runs=${RUNS:-3}
python=${PYTHON:-python3}
for file in "$queries" "$index" "$kiln"; do
  [ -e "$file" ] || { echo "error: $file: not there" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

ceiling=0
if command -v fio >/dev/null 2>&1; then
  fio --name=ceiling --filename="$index" --readonly --rw=randread --bs=4k --direct=1 --ioengine=io_uring \
    --fixedbufs=1 --registerfiles=1 --iodepth=64 --numjobs=1 --time_based --runtime=4 --norandommap --randrepeat=0 \
    --output-format=json >"$work/fio.json"
  ceiling=$("$python" -c 'import json, sys; print(round(json.load(open(sys.argv[1]))["jobs"][0]["read"]["iops"]))' "$work/fio.json")
  echo "drive: $ceiling random reads of 4 KiB a second, 64 deep"
else
  echo "drive: unknown ceiling (no fio)"
fi

# What is common to all settings.
common() {
  # shellcheck disable=SC2086  # words or nothing
  "$kiln" search "$index" --queries "$queries" --residency ssd ${IO:+--io $IO} ${READS:+--reads $READS} \
    ${MEMORY:+--memory $MEMORY} "$@"
}

common --search-list "$1" --batch 2>&1 >/dev/null | grep ' in memory ' || true
printf '%-14s %5s %8s %9s %8s %9s %9s %8s\n' mode list recall QPS pages 'p50 us' 'p99 us' 'of drive'
for mode in "1 --batch" "2 --batch" "1"; do
  threads=${mode%% *}
  case "$mode" in *--batch) batch=--batch ;; *) batch= ;; esac
  for list in "$@"; do
    run=0
    while [ "$run" -lt "$runs" ]; do
      # shellcheck disable=SC2086  # a word or nothing
      common --search-list "$list" --threads "$threads" $batch --json "$work/$run.json" >/dev/null 2>"$work/err" ||
        { cat "$work/err" >&2; exit 1; }
      run=$((run + 1))
    done
    "$python" - "$list" "$ceiling" "$work" "$runs" <<'PY'
import json, sys

number, ceiling, work, runs = sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rows = sorted((json.load(open(f"{work}/{run}.json")) for run in range(runs)), key=lambda row: row["qps"]["median"])
row = rows[len(rows) // 2]
p50, p99 = (f"{row['latency_us'][name]:.0f}" if row["latency_us"] else "-" for name in ("p50", "p99"))
qps, pages = row["qps"]["median"], row["pages_per_query"]
share = f"{100 * qps * pages / ceiling:7.0f}%" if ceiling else "?"
print(f"{row['mode']:14} {number:>5} {row['recall']:8.4f} {qps:9.0f} {pages:8.2f} {p50:>9} {p99:>9} {share:>8}")
PY
  done
done
