#!/bin/sh
# Makes a virtual environment from requirements/NAME.txt, and says nothing where it is already there.
#
#     scripts/distributed/setup.sh ray|kubernetes...
#
# Environments lie in $KILN_DISTRIBUTED_HOME, or in scripts/distributed/.venvs; $PYTHON makes them (python3). Versions and
# hashes are pinned.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
home=${KILN_DISTRIBUTED_HOME:-$here/.venvs}
python=${PYTHON:-python3}
[ $# -gt 0 ] || { echo "usage: $0 ray|kubernetes..." >&2; exit 2; }

mkdir -p "$home"
for name; do
    requirements=$here/requirements/$name.txt venv=$home/$name log=$home/$name.log
    [ -f "$requirements" ] || { echo "error: there is no $requirements" >&2; exit 2; }
    # An environment counts as made once it holds a copy of what it was made from.
    if cmp -s "$requirements" "$venv/made-from.txt"; then continue; fi
    echo "installing $name into $venv" >&2
    rm -rf "$venv"
    if "$python" -m venv "$venv" >"$log" 2>&1 &&
        "$venv/bin/python" -m pip install --no-deps --require-hashes -r "$requirements" >>"$log" 2>&1; then
        cp "$requirements" "$venv/made-from.txt"
    else
        echo "error: $name could not be installed: $(grep -i error "$log" | tail -n 1) (all of it: $log)" >&2
        exit 1
    fi
done
