#!/bin/sh
# Builds graphs of made-up rows within a budget of memory and in memory, and compares bytes, time, memory and disk.
#
#   scripts/scale/graph.sh BUDGET ROWS [ROWS ...]
#
# BUDGET as --memory-budget takes it, such as 1GiB. Rows are 128 bytes, in a file that is made first. Prints for each number of
# rows the seconds of both builds and their ratio, the exponent with which the first grew from the first number of rows, the
# most anonymous memory, and the most bytes of working files beside what they may take: the rows, and three times the ids of
# the graph. Fails where bytes differ, or memory or disk exceed what they may.
#
# KILN is the program, MORE further arguments of `kiln build`, TMPDIR where files lie. With ALONE=1 the build in memory, which
# memory may not suffice for, is left out.
set -eu
budget=$1
shift
kiln=${KILN:-target/release/kiln}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A number of a report, by its name.
figure() { sed -n "s/^ *\"$2\": \([0-9.e+-]*\),*\$/\1/p" "$folder/$1.json" | head -n 1; }

build() {
    name=$1
    shift
    # shellcheck disable=SC2086 # MORE is several words.
    "$kiln" --quiet build --dataset "$folder/rows.u8bin" --metric l2 --index vamana --device cpu --out "$folder/$name.kiln" \
        --json "$folder/$name.json" ${MORE:-} "$@" >"$folder/out"
}

printf '%12s %9s %9s %6s %9s %11s %11s %11s\n' rows seconds in-memory ratio exponent 'memory MiB' 'temp MiB' 'at most MiB'
for rows; do
    "$kiln" --quiet datasets synth --rows "$rows" --dim 128 --dtype u8 --lid 12 --seed 1 --queries 0 \
        --out "$folder/rows.u8bin" >"$folder/out"
    build within --memory-budget "$budget"
    seconds=$(figure within total) whole=-
    if [ "${ALONE:-}" != 1 ]; then
        build whole
        whole=$(figure whole total)
        cmp "$folder/within.kiln" "$folder/whole.kiln"
    fi
    first_rows=${first_rows:-$rows} first_seconds=${first_seconds:-$seconds}
    awk -v rows="$rows" -v seconds="$seconds" -v whole="$whole" -v memory="$(figure within peak_anonymous_bytes)" \
        -v temp="$(figure within temp_peak_bytes)" -v held="$(figure within memory_budget)" \
        -v degree="$(figure within max_degree)" -v r0="$first_rows" -v s0="$first_seconds" 'BEGIN {
            mib = 1048576
            most = rows * (128 + 3 * 4 * degree)
            exponent = rows == r0 ? "-" : sprintf("%.3f", log(seconds / s0) / log(rows / r0))
            ratio = whole == "-" ? "-" : sprintf("%.2f", seconds / whole)
            printf "%12d %9.1f %9s %6s %9s %11.1f %11.1f %11.1f\n", rows, seconds, whole == "-" ? "-" : sprintf("%.1f", whole),
                ratio, exponent, memory / mib, temp / mib, most / mib
            if (memory > 1.05 * held) { print "memory went beyond the budget" >"/dev/stderr"; exit 1 }
            if (temp > most) { print "working files took more than they may" >"/dev/stderr"; exit 1 }
        }'
    rm -f "$folder"/*.kiln* "$folder/rows.u8bin"
done
