#!/bin/sh
# Makes one virtual environment a library, from requirements/LIB.txt, and says nothing where it is already there.
#
#     scripts/peers/setup.sh [LIB...]      all of them unless some are named
#
# Environments lie in $KILN_PEERS_HOME, or in scripts/peers/.venvs; $PYTHON makes them (python3). Versions and hashes
# are pinned, and each file lists all that its library needs. A library that has a Cargo project here, LIB/, is built
# by $CARGO (cargo) beside the environments, in LIB.target, and its program lies in the environment. A library that
# cannot be installed is one line on stderr, and the exit status 1 after all the others.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
home=${KILN_PEERS_HOME:-$here/.venvs}
python=${PYTHON:-python3}
cargo=${CARGO:-cargo}

say() { printf '%s\n' "$*" >&2; }

is_program() { [ -f "$here/$1/Cargo.toml" ]; }

# An environment counts as made once it holds a copy of what it was made from.
made_from() {
  cat "$here/requirements/numpy.txt" "$here/requirements/$1.txt"
  if is_program "$1"; then cat "$here/$1/Cargo.toml" "$here/$1/Cargo.lock" "$here/$1"/src/*.rs; fi
}

make_environment() {
  rm -rf "$venv"
  "$python" -m venv "$venv" &&
    "$venv/bin/python" -m pip install --no-deps --require-hashes -r "$requirements"
}

build_program() {
  if ! command -v "$cargo"; then
    echo "error: there is no $cargo to build it with"
    return 1
  fi
  # For this processor: hnswlib compiles itself so, too.
  RUSTFLAGS="-C target-cpu=native" "$cargo" build --release --locked \
    --manifest-path "$here/$library/Cargo.toml" --target-dir "$home/$library.target" &&
    cp "$home/$library.target/release/$library" "$venv/bin/"
}

install() {
  library=$1
  requirements=$here/requirements/$library.txt
  venv=$home/$library
  if [ ! -f "$requirements" ]; then
    say "error: $library: there is no $requirements"
    return 1
  fi
  if made_from "$library" | cmp -s - "$venv/made-from.txt"; then return 0; fi
  say "installing $library into $venv"
  log=$home/$library.log
  if make_environment >"$log" 2>&1 && { ! is_program "$library" || build_program >>"$log" 2>&1; }; then
    made_from "$library" >"$venv/made-from.txt"
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
