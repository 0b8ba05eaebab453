#!/bin/sh
# Runs the tests of the emulated CUDA kernels under AddressSanitizer: every read and write of a kernel outside the memory
# that it was given is reported with the line of the .cu file.
#
#     sh scripts/kernels/sanitize.sh [ARGUMENTS OF cargo test]
#
# Needs g++ with its libasan, on Linux. Slow: about ten times the ordinary tests.

set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
compiler=${CXX:-g++}
library=$("$compiler" -print-file-name=libasan.so)
[ -f "$library" ] || { echo "error: $compiler has no libasan: install it (Debian: libasan8)" >&2; exit 1; }
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

cd "$here"
# Only the tests are started with the library, not cargo and the compilers. Rust's own memory is not looked at for leaks.
export KILN_EMULATION_SANITIZE=1
export "CARGO_TARGET_${target}_RUNNER=env LD_PRELOAD=$library ASAN_OPTIONS=detect_leaks=0"
if [ $# -eq 0 ]; then set -- cuda; fi
exec cargo test -p kiln-kernels "$@"
