# What the scripts of this folder share; each sources it. Sets root, kiln and work, and starts servers.

root=$(cd "$(dirname "$0")/../.." && pwd)
kiln=${KILN:-$root/target/release/kiln}
case $kiln in /*) ;; *) kiln=$PWD/$kiln ;; esac
work=$(mktemp -d "${TMPDIR:-/tmp}/kiln-serve.XXXXXX")
server=

say() { printf '%s\n' "$*" >&2; }

# Ends only the server that this script has started.
clean_up() {
  if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ ! -x "$kiln" ]; then
  say "error: there is no $kiln; build it with 'cargo build --release', or name another binary in KILN"
  exit 1
fi

# index FILE KIND...: a small index of the built-in data set.
index() {
  file=$1
  shift
  "$kiln" --quiet build --dataset "$root/datasets/data/photosift-10k-128-euclidean.hdf5" --out "$file" "$@" >/dev/null
}

# start INDEX ARGS...: sets server (its process) and url.
start() {
  "$kiln" serve "$@" --listen 127.0.0.1:0 >"$work/address" 2>"$work/server.log" &
  server=$!
  tries=0
  until grep -q '^listening on ' "$work/address"; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ] || ! kill -0 "$server" 2>/dev/null; then
      say "error: the server does not listen:"
      cat "$work/server.log" >&2
      exit 1
    fi
    sleep 0.1
  done
  url=$(sed -n 's/^listening on //p' "$work/address")
}

# metric NAME: its value, 0 where it is not told.
metric() {
  curl -s "$url/metrics" | awk -v name="$1" '$1 == name { value = $2 } END { print value + 0 }'
}

# resident: KiB of memory that the server holds.
resident() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }
