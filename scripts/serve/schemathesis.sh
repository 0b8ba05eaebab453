#!/bin/sh
# Holds `kiln serve` against its OpenAPI description with schemathesis, an independent, schema-driven tester: it makes
# requests that fit the description and requests that do not, and fails where an answer is not one that is described.
#
#     scripts/serve/schemathesis.sh                 with a small index of each kind; a minute or two
#     KILN=target/debug/kiln EXAMPLES=500 scripts/serve/schemathesis.sh
#
# Installs schemathesis from PyPI into target/schemathesis.

set -eu
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

venv=$root/target/schemathesis
if [ ! -x "$venv/bin/schemathesis" ]; then
  say "installing schemathesis into $venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet 'schemathesis==4.*'
fi

index "$work/vamana.kiln" --index vamana
index "$work/ivf-pq.kiln" --index ivf-pq
printf 's3cret\n' >"$work/token"
export SCHEMATHESIS_HOOKS=raw_bodies PYTHONPATH="$root/scripts/serve" PYTHONDONTWRITEBYTECODE=1 DIM=128
# The tester keeps what it found in the folder that it runs in.
cd "$work"
for kind in vamana ivf-pq; do
  say "== $kind"
  start "$work/$kind.kiln" --token-file "$work/token" --max-answers 1000000
  "$venv/bin/schemathesis" run "$url/openapi.json" --url "$url" --header 'Authorization: Bearer s3cret' \
    --max-examples "${EXAMPLES:-100}" --seed 42 --checks all --no-color
  internal=$(curl -s -H 'Authorization: Bearer s3cret' "$url/metrics" | grep -c 'kind="internal"' || true)
  if [ "$internal" -ne 0 ] || grep -q panicked "$work/server.log"; then
    say "error: the server met a fault of its own:"
    cat "$work/server.log" >&2
    exit 1
  fi
  kill -TERM "$server"
  wait "$server"
  server=
done
say "schemathesis found nothing"
