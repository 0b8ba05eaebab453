#!/bin/sh
# Builds one index by two machines (two caches) that share an S3 bucket alone, and compares its bytes with those that `kiln build`
# makes. Units are large enough to be sent in parts.
#
#     scripts/distributed/test_s3.sh [ROWS]      5,000 unless told
#
# Uses the server of $KILN_TEST_S3 (an endpoint such as http://127.0.0.1:9000, with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
# a bucket in KILN_TEST_BUCKET), else starts moto (pip install 'moto[server]'), else says that it is skipped. Uses KILN for the
# program (target/release/kiln), and a folder of its own under TMPDIR.
set -eu
rows=${1:-5000}
kiln=${KILN:-target/release/kiln}
kiln=$(cd "$(dirname "$kiln")" && pwd)/$(basename "$kiln")
folder=$(mktemp -d)
server=''
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
cd "$folder"

export AWS_REGION=${AWS_REGION:-us-east-1}
if [ -n "${KILN_TEST_S3:-}" ]; then
    export AWS_ENDPOINT=$KILN_TEST_S3
    bucket=$KILN_TEST_BUCKET
elif command -v moto_server >/dev/null; then
    export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_ENDPOINT=http://127.0.0.1:17010
    bucket=kiln-test
    moto_server -H 127.0.0.1 -p 17010 >moto.log 2>&1 &
    server=$!
    tries=60
    until python3 -c "
import urllib.request
urllib.request.urlopen(urllib.request.Request('$AWS_ENDPOINT/$bucket', method='PUT', headers={'Authorization': 'AWS test:test'}))
" 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "error: moto does not answer" >&2; tail -n 5 moto.log >&2; exit 1; }
        sleep .5
    done
else
    echo "SKIPPED: neither KILN_TEST_S3 nor moto_server" >&2
    exit 0
fi
case $AWS_ENDPOINT in http://*) export AWS_ALLOW_HTTP=true ;; esac
work=s3://$bucket/test-$$/base.work

"$kiln" --quiet datasets synth --rows "$rows" --dim 2304 --lid 12 --out base.fbin
"$kiln" --quiet build --dataset base.fbin --metric l2 --index vamana --device cpu --out single.kiln
"$kiln" --quiet unit plan --dataset base.fbin --metric l2 --index vamana --memory-budget 1GiB --work "$work" --out s3.kiln
for stage in summary assign middle rows leaves prune graph repair place order; do
    began=$(date +%s)
    for machine in 0 1; do
        "$kiln" --quiet unit build --work "$work" --stage $stage --share $machine/2 --device cpu --cache cache-$machine \
            >"$machine.log" 2>&1 &
        eval "pid$machine=$!"
    done
    for machine in 0 1; do
        eval "wait \$pid$machine" || { cat "$machine.log" >&2; exit 1; }
    done
    echo "$stage: $(($(date +%s) - began)) s, $(cat 0.log 1.log | tr '\n' ';')"
    "$kiln" --quiet unit clean --work "$work" >/dev/null
done
"$kiln" --quiet unit status --work "$work"
"$kiln" --quiet unit merge --work "$work" --device cpu --cache cache-2
cmp single.kiln s3.kiln
echo "the bytes are the same"
"$kiln" --quiet unit clean --work "$work" --all
