#!/bin/sh
# Makes a folder that proves and measures Kiln's CUDA backend on a machine with a GPU, a driver, Python and nothing else.
#
#     scripts/gpu_check.sh [FOLDER]              here: builds, and fills FOLDER (target/gpu-check), at most 60 MiB
#     FOLDER/run.sh --out RESULTS                there: every stage, each under nine minutes; goes on where it stopped
#     FOLDER/run.sh --out RESULTS --stage kernels,graph-1m
#
# RESULTS/record.json and RESULTS/record.md are what is committed under reports/gpu/. The binaries link HDF5 statically
# (cmake 3.26 or newer builds it) and need glibc of this machine or newer; CUDA is found at run time.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
folder=${1:-$root/target/gpu-check}
cargo=${CARGO:-cargo}
most_bytes=62914560

say() { printf '%s\n' "$*" >&2; }

cd "$root"
say "building kiln with static HDF5"
"$cargo" build --release --features hdf5-static
say "building the conformance suite"
suite=$("$cargo" test --release -p kiln-kernels --test conformance --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*conformance[^"]*\)".*/\1/p' | tail -n 1)
if [ -z "$suite" ]; then
  say "error: cargo named no executable of the conformance suite"
  exit 1
fi

rm -rf "$folder"
mkdir -p "$folder"
cp target/release/kiln "$folder/kiln"
cp "$suite" "$folder/conformance"
strip "$folder/kiln" "$folder/conformance"
cp "$here/gpu_check/run.sh" "$here/gpu_check/roofline.py" "$here/gpu_check/record.py" "$folder/"
commit=$(git rev-parse HEAD)
if [ -n "$(git status --porcelain)" ]; then commit="$commit, with uncommitted changes"; fi
printf '%s\n' "$commit" >"$folder/commit.txt"
cp kernels/cuda/built/manifest.json "$folder/manifest.json"

bytes=$(du -sb "$folder" | cut -f 1)
say "$folder: $((bytes / 1048576)) MiB"
if [ "$bytes" -gt "$most_bytes" ]; then
  say "error: the bundle is larger than 60 MiB"
  exit 1
fi
