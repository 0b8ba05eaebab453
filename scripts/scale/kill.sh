#!/bin/sh
# Kills one build within a budget (-9) at random moments, then lets it finish, and compares its bytes with those of a build
# that nobody kills.
#
#   scripts/scale/kill.sh BASE METRIC BUDGET [KILLS [SECONDS]]
#
# BASE is a file of rows, BUDGET as --memory-budget takes it. KILLS are made (40 unless told) at moments drawn evenly from
# the SECONDS (10 unless told) after each start. Uses KILN for the program, INDEX for the kind of index (vamana unless told),
# and a folder of its own under TMPDIR.
set -eu
base=$1 metric=$2 budget=$3 kills=${4:-40} seconds=${5:-10}
kiln=${KILN:-target/release/kiln}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

build() {
    "$kiln" --quiet build --dataset "$base" --metric "$metric" --index "${INDEX:-vamana}" --device cpu --memory-budget "$budget" --out "$1"
}

now() { date +%s; }

began=$(now)
build "$folder/whole.kiln"
whole=$(($(now) - began))
echo "uninterrupted: $whole s"

made=0 began=$(now)
while [ "$made" -lt "$kills" ] && [ ! -e "$folder/killed.kiln" ]; do
    "$kiln" --quiet build --dataset "$base" --metric "$metric" --index "${INDEX:-vamana}" --device cpu \
        --memory-budget "$budget" --out "$folder/killed.kiln" &
    child=$!
    sleep "$(awk -v seed="$made" -v most="$seconds" 'BEGIN { srand(seed + 1); printf "%.3f", rand() * most }')"
    kill -9 "$child" 2>/dev/null && made=$((made + 1))
    wait "$child" 2>/dev/null || true
done
[ -e "$folder/killed.kiln" ] || build "$folder/killed.kiln"
echo "killed $made times: $(($(now) - began)) s"
cmp "$folder/whole.kiln" "$folder/killed.kiln"
echo "the bytes are the same"
