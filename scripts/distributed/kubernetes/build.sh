#!/bin/sh
# Runs the stages of a plan on Kubernetes, an Indexed Job each, one after another; then `kiln unit merge` writes the index.
#
#     scripts/distributed/kubernetes/build.sh --name base --image REGISTRY/kiln:TAG --work s3://BUCKET/base.work \
#         --dataset /data/base.u8bin [--count 16] [--render]
#
# The place was planned with `kiln unit plan`. job.yaml is the template: change there what pods get, and where data lie. With
# --render the jobs are printed, and nothing is run. The same command again makes what is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

name='' image='' work='' dataset='' count=16 render=
while [ $# -gt 0 ]; do
    case $1 in
    --render) render=yes; shift; continue ;;
    --name | --image | --work | --dataset | --count) [ $# -ge 2 ] || usage ;;
    *) usage ;;
    esac
    case $1 in
    --name) name=$2 ;; --image) image=$2 ;; --work) work=$2 ;; --dataset) dataset=$2 ;; --count) count=$2 ;;
    esac
    shift 2
done
[ -n "$name" ] && [ -n "$image" ] && [ -n "$work" ] && [ -n "$dataset" ] && [ "$count" -ge 1 ] || usage

# The job of a stage.
job() {
    case $1 in summary | middle | repair | order) pods=1 ;; *) pods=$count ;; esac
    # What stands in capitals, but in comments and in names of variables.
    sed -e '/^ *#/d' -e "s|IMAGE|$image|; s|--work=WORK|--work=$work|; s|--dataset=DATASET|--dataset=$dataset|" \
        -e "s|\bCOUNT\b|$pods|g; s|\bSTAGE\b|$1|g; s|\bNAME\b|$name|g" "$here/job.yaml"
}

for stage in summary assign middle rows leaves prune graph repair place order; do
    if [ -n "$render" ]; then
        echo "---"
        job "$stage"
        continue
    fi
    kubectl delete job --ignore-not-found "$name-$stage" >/dev/null
    job "$stage" | kubectl apply -f -
    until [ "$(kubectl get job "$name-$stage" -o 'jsonpath={.status.conditions[?(@.type=="Complete")].status}')" = True ]; do
        if [ "$(kubectl get job "$name-$stage" -o 'jsonpath={.status.conditions[?(@.type=="Failed")].status}')" = True ]; then
            echo "error: $stage failed: kubectl logs -l job-name=$name-$stage --tail 5" >&2
            exit 1
        fi
        sleep 5
    done
    echo "$stage is finished"
done
[ -n "$render" ] || echo "now: kiln unit clean --work $work && kiln unit merge --work $work"
