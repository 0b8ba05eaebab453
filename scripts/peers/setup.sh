#!/bin/sh
# Makes one virtual environment a library, from requirements/LIB.txt, and says nothing where it is already there.
#
#     scripts/peers/setup.sh [LIB...]      all of them unless some are named
#
# Environments lie in $KILN_PEERS_HOME, or in scripts/peers/.venvs; $PYTHON makes them (python3). Versions and hashes
# are pinned, and each file lists all that its library needs. A library that cannot be installed is one line on stderr,
# and the exit status 1 after all the others.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
home=${KILN_PEERS_HOME:-$here/.venvs}
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

# An environment counts as made once it holds a copy of what it was made from.
is_current() { cat "$here/requirements/numpy.txt" "$1" | cmp -s - "$2/made-from.txt"; }

install() {
  library=$1
  requirements=$here/requirements/$library.txt
  venv=$home/$library
  if [ ! -f "$requirements" ]; then
    say "error: $library: there is no $requirements"
    return 1
  fi
  if is_current "$requirements" "$venv"; then return 0; fi
  say "installing $library into $venv"
  log=$home/$library.log
  rm -rf "$venv"
  if "$python" -m venv "$venv" >"$log" 2>&1 &&
    "$venv/bin/python" -m pip install --no-deps --require-hashes -r "$requirements" >>"$log" 2>&1; then
    cat "$here/requirements/numpy.txt" "$requirements" >"$venv/made-from.txt"
  else
    say "error: $library could not be installed: $(grep -i error "$log" | tail -n 1) (all of it: $log)"
    return 1
  fi
}

mkdir -p "$home"
if [ $# -eq 0 ]; then
  for file in "$here"/requirements/*.txt; do
    library=$(basename "$file" .txt)
    [ "$library" = numpy ] || set -- "$@" "$library"
  done
fi
status=0
for library; do
  install "$library" || status=1
done
exit $status
