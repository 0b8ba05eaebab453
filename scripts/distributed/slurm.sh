#!/bin/sh
# Submits the units of a plan to Slurm: an array job a stage, each after the stages that it needs, then the merge.
#
#     scripts/distributed/slurm.sh --work /shared/base.work --out /shared/base.kiln [--tasks 16] [--kiln PATH]
#                                  [--device auto] [-- OPTIONS OF SBATCH...]
#
# The place was planned with `kiln unit plan`, and every node reaches it, the data set and the program at the same paths. Task I
# of N makes every N-th unit of its stage. A task whose node dies is queued again by Slurm; one that fails tries twice more. The
# same command again, or after a failure, makes what is missing. Options after -- are of every job: --gpus-per-task=1,
# --cpus-per-task=16, --mem=24G, --time=2:00:00, a partition, an account. Prints the number of the merge's job.
set -eu

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }

work='' out='' tasks=16 kiln=${KILN:-kiln} device=auto
while [ $# -gt 0 ]; do
    case $1 in
    --work | --out | --tasks | --kiln | --device)
        [ $# -ge 2 ] || usage
        case $1 in
        --work) work=$2 ;; --out) out=$2 ;; --tasks) tasks=$2 ;; --kiln) kiln=$2 ;; --device) device=$2 ;;
        esac
        shift 2
        ;;
    --) shift; break ;;
    *) usage ;;
    esac
done
[ -n "$work" ] && [ -n "$out" ] && [ "$tasks" -ge 1 ] || usage

# Told here rather than by every task.
"$kiln" unit status --work "$work" >/dev/null

# Each word as a shell reads it back.
quoted() {
    for word; do printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"; done
}

# Submits a job: its name, the jobs it follows (with colons between), the last number of its array, and a shell command.
submit() {
    name=$1 after=$2 last=$3 command=$4
    shift 4
    sbatch --parsable --job-name="kiln-$name" --array="0-$last" --requeue --kill-on-invalid-dep=yes \
        ${after:+--dependency="afterok:$after"} "$@" \
        --wrap="for try in 1 2 3; do $command && exit 0; sleep 5; done; exit 1" | cut -d ';' -f 1
}

# Makes the units of a stage: its name, the jobs it follows, how many tasks.
stage() {
    name=$1 after=$2 count=$3
    shift 3
    build=$(quoted "$kiln" unit build --work "$work" --device "$device" --stage "$name")
    submit "$name" "$after" $((count - 1)) "$build --share \$SLURM_ARRAY_TASK_ID/$count" "$@"
}

# Removes what the stages before leave behind, beside the stages after.
clean() {
    after=$1
    shift
    submit clean "$after" 0 "$(quoted "$kiln" unit clean --work "$work")" "$@" >/dev/null
}

summary=$(stage summary '' 1 "$@")
assign=$(stage assign "$summary" "$tasks" "$@")
middle=$(stage middle "$assign" 1 "$@")
rows=$(stage rows "$assign" "$tasks" "$@")
leaves=$(stage leaves "$middle:$rows" "$tasks" "$@")
prune=$(stage prune "$leaves" "$tasks" "$@")
clean "$prune" "$@"
graph=$(stage graph "$prune" "$tasks" "$@")
clean "$graph" "$@"
repair=$(stage repair "$graph" 1 "$@")
place=$(stage place "$rows" "$tasks" "$@")
order=$(stage order "$repair:$place" 1 "$@")
submit merge "$order" 0 "$(quoted "$kiln" unit merge --work "$work" --device "$device" --out "$out")" "$@"
