#!/bin/sh
# Measures Kiln and its peers on one data set file: `scripts/peers/compare.sh --help`. See README.md beside this file.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh" driver
exec "${KILN_PEERS_HOME:-$here/.venvs}/driver/bin/python" "$here/compare.py" "$@"
