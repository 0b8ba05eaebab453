#!/bin/sh
# Streams made-up rows into IVF-PQ within a budget of memory, once for each number of rows, and prints what that took.
#
#   scripts/scale/stream.sh BUDGET ROWS [ROWS ...]
#
# BUDGET as --memory-budget takes it, such as 4GiB. Rows are 128 bytes, made as they are read: nothing of them is written but
# working files and the index, which goes when it is measured. Prints rows a second, the most anonymous memory, the most bytes
# of working files, the index, and the exponent with which time grew from the first number of rows to each. Fails where a
# build takes more than 1.05 of its budget.
#
# KILN is the program, MORE further arguments of `kiln build` (such as "--nlist 4096": by default there are about 2 sqrt(ROWS)
# lists), TMPDIR where files lie.
set -eu
budget=$1
shift
kiln=${KILN:-target/release/kiln}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A number of the report, by its name.
figure() { sed -n "s/^ *\"$1\": \([0-9.e+-]*\),*\$/\1/p" "$folder/report.json" | head -n 1; }

printf '%12s %9s %9s %11s %11s %11s %9s\n' rows seconds rows/s 'memory MiB' 'temp MiB' 'index MiB' exponent
for rows; do
    # shellcheck disable=SC2086 # MORE is several words.
    "$kiln" --quiet build --dataset "synth:rows=$rows,dim=128,dtype=u8,lid=12,seed=1" --index ivf-pq --device cpu \
        --memory-budget "$budget" --out "$folder/x.kiln" --json "$folder/report.json" ${MORE:-} >"$folder/out"
    seconds=$(figure total) memory=$(figure peak_anonymous_bytes) held=$(figure memory_budget)
    first_rows=${first_rows:-$rows} first_seconds=${first_seconds:-$seconds}
    awk -v rows="$rows" -v seconds="$seconds" -v memory="$memory" -v temp="$(figure temp_peak_bytes)" \
        -v index_bytes="$(figure index_bytes)" -v held="$held" -v r0="$first_rows" -v s0="$first_seconds" 'BEGIN {
            exponent = rows == r0 ? "-" : sprintf("%.3f", log(seconds / s0) / log(rows / r0))
            mib = 1048576
            printf "%12d %9.1f %9.0f %11.1f %11.1f %11.1f %9s\n", rows, seconds, rows / seconds, memory / mib, temp / mib,
                index_bytes / mib, exponent
            if (memory > 1.05 * held) {
                print "memory went beyond the budget" >"/dev/stderr"
                exit 1
            }
        }'
    rm -f "$folder"/x.kiln*
done
