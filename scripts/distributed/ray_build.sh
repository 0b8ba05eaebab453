#!/bin/sh
# Installs Ray where it is missing, and makes the units of a plan on a Ray cluster: see ray_build.py --help.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh" ray
exec "${KILN_DISTRIBUTED_HOME:-$here/.venvs}/ray/bin/python" "$here/ray_build.py" "$@"
