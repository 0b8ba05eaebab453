#!/bin/sh
# Builds one index on a Slurm cluster of two nodes on this machine, one of which dies midway, and compares its bytes with those
# that `kiln build` makes.
#
#     scripts/distributed/test_slurm.sh [ROWS]      40,000 unless told
#
# Needs root, and slurmctld, slurmd and munged (Debian: apt-get install --no-install-recommends slurm-wlm munge). Uses KILN for
# the program (target/release/kiln), ports 17001 to 17003, and a folder of its own under TMPDIR; all daemons end with it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
rows=${1:-40000}
kiln=${KILN:-target/release/kiln}
kiln=$(cd "$(dirname "$kiln")" && pwd)/$(basename "$kiln")
for daemon in munged slurmctld slurmd; do
    PATH=$PATH:/usr/sbin command -v $daemon >/dev/null || {
        echo "SKIPPED: there is no $daemon (apt-get install --no-install-recommends slurm-wlm munge)" >&2
        exit 0
    }
done
[ "$(id -u)" = 0 ] || { echo "SKIPPED: Slurm's daemons need root" >&2; exit 0; }
PATH=$PATH:/usr/sbin

folder=$(mktemp -d)
chmod 755 "$folder"
pids=''
finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM
cd "$folder"

# Daemons in the foreground, so that they end with this script.
dd if=/dev/urandom of=munge.key bs=1 count=1024 2>/dev/null
chmod 400 munge.key
munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" 2>munged.err &
pids="$pids $!"
host=$(hostname -s)
mkdir state spool1 spool2
cat >slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17001
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdTimeout=10
InactiveLimit=0
MinJobAge=300
ReturnToService=2
JobRequeue=1
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17003 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld -D 2>slurmctld.err &
pids="$pids $!"
slurmd -D -N n1 2>n1.err &
first=$!
slurmd -D -N n2 2>n2.err &
pids="$pids $first $!"

# Waits until a command succeeds, so many half seconds.
wait_for() {
    times=$1
    shift
    while ! "$@" >/dev/null 2>&1; do
        times=$((times - 1))
        [ $times -gt 0 ] || { echo "error: $* did not come true" >&2; tail -n 5 ./*.log ./*.err >&2; exit 1; }
        sleep .5
    done
}
idle() { [ "$(sinfo -h -t idle -o %D)" = 2 ]; }
wait_for 60 idle

"$kiln" --quiet datasets synth --rows "$rows" --dim 64 --lid 12 --dtype u8 --out base.u8bin
"$kiln" --quiet build --dataset base.u8bin --metric l2 --index vamana --device cpu --out single.kiln
"$kiln" --quiet unit plan --dataset base.u8bin --metric l2 --index vamana --memory-budget 160MiB --work work --out slurm.kiln
merge=$("$here/slurm.sh" --work "$folder/work" --out "$folder/slurm.kiln" --tasks 4 --kiln "$kiln" --device cpu -- \
    --output="$folder/job-%x-%a.log")
echo "submitted, merge is job $merge"

leaves() { ls work | grep -q '^leaves-[0-9]*$'; }
wait_for 240 leaves
# The node dies with what runs on it: the daemon, then each task's step, shell and program. Its tasks are queued again.
on_node() { pgrep -f "$folder/spool-n1/job"; }
wait_for 240 on_node
shells=$(on_node)
kill -9 "$first"
for shell in $shells; do
    step=$(ps -o ppid= -p "$shell") programs=$(pgrep -P "$shell" || true)
    # shellcheck disable=SC2086
    kill -9 $step $shell $programs 2>/dev/null || true
done
scontrol update nodename=n1 state=down reason="killed midway"
echo "killed a node with $(echo "$shells" | wc -l) tasks"
written() { [ -f slurm.kiln ] && [ -z "$(squeue -h)" ]; }
wait_for 400 written
cmp single.kiln slurm.kiln
echo "the bytes are the same"
