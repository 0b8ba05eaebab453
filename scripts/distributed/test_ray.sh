#!/bin/sh
# Builds one index on a Ray cluster of three nodes on this machine, one of which is killed midway, and compares its bytes with
# those that `kiln build` makes.
#
#     scripts/distributed/test_ray.sh [ROWS]      40,000 unless told
#
# Uses KILN for the program (target/release/kiln), and a folder of its own under TMPDIR.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
rows=${1:-40000}
kiln=${KILN:-target/release/kiln}
kiln=$(cd "$(dirname "$kiln")" && pwd)/$(basename "$kiln")
"$here/setup.sh" ray
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"$kiln" --quiet datasets synth --rows "$rows" --dim 64 --lid 12 --dtype u8 --out base.u8bin
"$kiln" --quiet build --dataset base.u8bin --metric l2 --index vamana --device cpu --out single.kiln
"$kiln" --quiet unit plan --dataset base.u8bin --metric l2 --index vamana --memory-budget 160MiB --work work --out ray.kiln
KILN=$kiln "${KILN_DISTRIBUTED_HOME:-$here/.venvs}/ray/bin/python" "$here/test_ray.py" "$folder"
cmp single.kiln ray.kiln
echo "the bytes are the same"
