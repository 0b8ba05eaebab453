#!/bin/sh
# QPS at recall .95 against serving memory, in one command: `scripts/bench/memory_curve.sh --help`.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
"$here/../peers/setup.sh" driver
exec "${KILN_PEERS_HOME:-$here/../peers/.venvs}/driver/bin/python" "$here/memory_curve.py" "$@"
