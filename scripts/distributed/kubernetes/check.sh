#!/bin/sh
# Holds the jobs that build.sh makes against the schema of Kubernetes.
#
#     scripts/distributed/kubernetes/check.sh [VERSION]      1.30 unless told
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/../setup.sh" kubernetes
jobs=$(mktemp)
trap 'rm -f "$jobs"' EXIT
"$here/build.sh" --name base --image registry.example/kiln:1 --work s3://bucket/base.work --dataset /data/base.u8bin --render \
    >"$jobs"
[ "$(grep -c '^kind: Job' "$jobs")" = 10 ] || { echo "error: there are ten stages" >&2; exit 1; }
if grep -nE '\b(COUNT|STAGE|IMAGE|WORK|DATASET|NAME)\b' "$jobs"; then echo "error: not filled in" >&2; exit 1; fi
"${KILN_DISTRIBUTED_HOME:-$here/../.venvs}/kubernetes/bin/kubernetes-validate" --strict --kubernetes-version "${1:-1.30}" "$jobs"
