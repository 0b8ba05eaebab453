#!/bin/sh
# Compiles kernels/cuda/*.cu into kernels/cuda/built, which is committed and embedded in the binary.
#
#     sh scripts/build_kernels.sh            compile: makes a virtual environment in target/ with NVRTC 12.4 from pip (45 MB)
#     sh scripts/build_kernels.sh --check    are the built files those of the sources? Compiles nothing, needs no network
#     sh scripts/build_kernels.sh --install  makes only the virtual environment
#     sh scripts/build_kernels.sh --verify   compiles again, and compares byte by byte
#
# No GPU, no nvcc and no C++ compiler are needed. The toolchain is the oldest that knows sm_90a well, so that drivers for
# CUDA 12.0 and later take the result.

set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
environment=${KILN_KERNELS_VENV:-$here/target/kernels-venv}
sources=$here/kernels/cuda

action=build
case "${1:-}" in
  '') ;;
  --check) exec "$python" -B "$here/scripts/kernels/build.py" check "$sources" "$sources/built" ;;
  --install) action= ;;
  --verify) action=verify ;;
  *) echo "usage: sh scripts/build_kernels.sh [--check | --install | --verify]" >&2; exit 2 ;;
esac

wheels=$("$python" -B "$here/scripts/kernels/build.py" wheels)
if [ "$(cat "$environment/wheels" 2>/dev/null || true)" != "$wheels" ]; then
  "$python" -m venv --clear "$environment"
  # shellcheck disable=SC2086  # a list of words
  "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps $wheels
  echo "$wheels" > "$environment/wheels"
fi
[ -n "$action" ] || exit 0
exec "$environment/bin/python" -B "$here/scripts/kernels/build.py" "$action" "$sources" "$sources/built"
