#!/bin/sh
# Proves and measures the CUDA backend on this machine: see scripts/gpu_check.sh, which makes the folder that this is in.
#
#     run.sh --out RESULTS [--stage NAME,NAME] [--data FOLDER]
#
# Stages: conformance kernels roofline exact graph-1m batches graph-10m graph-768 ivf-10m, then, asked for by name only, graph-100m,
# ivf-100m, and data-30m graph-30m graph-30m-streamed: 12 GB of rows built resident, then with 4 GiB of the device's memory.
# A stage whose result lies in RESULTS is not run again. What failed is in the record, too, with its output.

set -u

here=$(cd "$(dirname "$0")" && pwd)
out=''
stages='conformance kernels roofline exact graph-1m batches graph-10m graph-768 ivf-10m'
data=${TMPDIR:-/tmp}/kiln-gpu-data
limit=540

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --out) out=$2 ;;
    --stage) stages=$(printf '%s' "$2" | tr ',' ' ') ;;
    --data) data=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ -n "$out" ] || usage
mkdir -p "$out" "$data"

say() { printf '%s\n' "$*" >&2; }
kiln() { "$here/kiln" "$@"; }

# synth NAME ROWS DIM TYPE QUERIES: a synthetic set in $data, made once.
synth() {
  [ -f "$data/$1.hdf5" ] || kiln datasets synth --rows "$2" --dim "$3" --lid 16 --dtype "$4" --queries "$5" --k 10 \
    --device cuda --out "$data/$1.hdf5"
}

# built NAME LABEL FLAG..: the graph of a set in $data, built with these flags, and its recall; the index does not stay.
built() {
  name=$1 label=$2
  shift 2
  kiln build --dataset "$data/$name.hdf5" --index vamana "$@" --out "$data/$name.$label.kiln" --json "$out/$name.$label.json" &&
    searched "$name" "$label"
  code=$?
  rm -f "$data/$name.$label.kiln"
  return $code
}

# graph NAME: build on the GPU and on the processor, then the recall of both at equal list sizes.
graph() {
  kiln build --dataset "$data/$1.hdf5" --index vamana --device cuda --out "$data/$1.cuda.kiln" --json "$out/$1.cuda.json" &&
    searched "$1" cuda || return 1
  [ "${2:-}" = cuda-only ] && return 0
  kiln build --dataset "$data/$1.hdf5" --index vamana --device cpu --out "$data/$1.cpu.kiln" --json "$out/$1.cpu.json" &&
    searched "$1" cpu
}

searched() {
  for list in 20 40 60; do
    kiln search "$data/$1.$2.kiln" --queries "$data/$1.hdf5" --search-list $list --batch \
      --json "$out/$1.$2.search-$list.json" >/dev/null || return 1
  done
}

# batches NAME: a graph's whole query set in one call to the GPU, the way there and back included and not, beside one thread.
batches() {
  kiln build --dataset "$data/$1.hdf5" --index vamana --device cuda --out "$data/$1.kiln" --json "$out/$1.json" &&
    kiln bench --dataset "$data/$1.hdf5" --open "$data/$1.kiln" --search-list 16,32,64,128 --threads 1 --batch --batch-device \
      --device cuda --quick --out "$data/$1.run" --json "$out/$1.batches.json" >/dev/null
  code=$?
  rm -rf "$data/$1.kiln" "$data/$1.run"
  return $code
}

ivf() {
  kiln build --dataset "$data/$1.hdf5" --index ivf-pq --nlist "$2" --m 32 --device cuda --out "$data/$1.ivf.kiln" \
    --json "$out/$1.ivf.json"
}

stage() {
  case $1 in
    conformance)
      # What tests say goes to a file of its own: verdicts stay whole lines.
      KILN_REQUIRE=cuda "$here/conformance" cuda:: --nocapture --test-threads 4 2>"$out/conformance.err" || {
        cat "$out/conformance.err"
        return 1
      }
      ;;
    kernels)
      kiln devices --json "$out/devices.json" &&
        kiln bench-kernels --device cuda --rows 1000000 --dim 128 --dtype u8,f32,f16 --json "$out/kernels-128.json" &&
        kiln bench-kernels --device cuda --rows 200000 --dim 768 --dtype f32,f16 --json "$out/kernels-768.json"
      ;;
    roofline) python3 "$here/roofline.py" "$out/roofline.json" ;;
    exact)
      synth base-1m 1000000 128 u8 1000 &&
        kiln datasets convert "$data/base-1m.hdf5" "$data/base-1m.u8bin" &&
        kiln datasets truth "$data/base-1m.u8bin" --queries "$data/base-1m.u8bin" --metric l2 --k 64 --device cuda \
          --out "$data/knn.ibin"
      ;;
    graph-1m) synth base-1m 1000000 128 u8 1000 && graph base-1m ;;
    batches) synth batches-1m 1000000 128 u8 10000 && batches batches-1m ;;
    graph-10m) synth base-10m 10000000 128 u8 1000 && graph base-10m cuda-only ;;
    graph-768) synth base-768 1000000 768 f32 1000 && graph base-768 cuda-only ;;
    graph-100m) synth base-100m 100000000 96 u8 1000 && graph base-100m cuda-only ;;
    data-30m) synth base-30m 30000000 96 f32 1000 ;;
    graph-30m) synth base-30m 30000000 96 f32 1000 && built base-30m cuda --device cuda ;;
    graph-30m-streamed)
      synth base-30m 30000000 96 f32 1000 && built base-30m streamed --device cuda --device-memory 4GiB
      ;;
    ivf-10m) synth base-10m 10000000 128 u8 1000 && ivf base-10m 4096 ;;
    ivf-100m) synth base-100m 100000000 96 u8 1000 && ivf base-100m 16384 ;;
    *)
      say "unknown stage: $1"
      return 2
      ;;
  esac
}

# A stage runs in a shell of its own, so that `timeout` can end it.
if [ "${KILN_GPU_CHECK_STAGE:-}" ]; then
  stage "$KILN_GPU_CHECK_STAGE"
  exit $?
fi

status=0
for name in $stages; do
  if [ -f "$out/$name.done" ]; then
    say "$name: done before"
    continue
  fi
  say "$name ..."
  started=$(date +%s)
  KILN_GPU_CHECK_STAGE=$name timeout $limit "$0" --out "$out" --data "$data" >"$out/$name.log" 2>&1
  code=$?
  seconds=$(($(date +%s) - started))
  say "$name: exit code $code after $seconds s"
  if [ $code -eq 0 ]; then
    echo "$seconds" >"$out/$name.done"
    rm -f "$out/$name.failed"
  else
    echo "$code $seconds" >"$out/$name.failed"
    tail -n 5 "$out/$name.log" >&2
    status=1
  fi
done
python3 "$here/record.py" "$here" "$out" || status=1
exit $status
