#!/usr/bin/env bash
# A real Slurm on this machine alone: munged, slurmctld and N slurmd nodes with two pretend GPUs each.
#   mini_slurm.sh up STATE_DIR [NODES]     mini_slurm.sh down STATE_DIR
# Needs root, slurm-wlm and munge; no systemd, no cgroups, no accounting. Job steps read /etc/slurm, so the
# configuration is linked there.
set -euo pipefail
action=${1:?up or down} state=${2:?folder of the state} nodes=${3:-2}
host=$(hostname -s)

down() {
    for pid in "$state"/*.pid "$state"/munge/pid; do
        [ -e "$pid" ] && kill -9 "$(cat "$pid")" 2>/dev/null || true
    done
    pkill -9 -f "slurmstepd: .*" || true
    # scontrol would wait 10 s for a controller that is gone, and snakemake asks it at every start
    for link in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
        [ "$(readlink "$link")" = "$state/${link##*/}" ] && rm "$link" || true
    done
}

if [ "$action" = down ]; then
    down
    exit
fi

mkdir -p "$state"/{ctld,spool,log,munge} /etc/slurm
chmod 755 "$state" "$state/log"
dd if=/dev/urandom of="$state/munge/key" bs=1 count=1024 status=none
chmod 600 "$state/munge/key"
munged --force --key-file="$state/munge/key" --socket="$state/munge/sock" --pid-file="$state/munge/pid" \
    --seed-file="$state/munge/seed" --log-file="$state/munge/log"

cat >"$state/slurm.conf" <<CONF
ClusterName=mini
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket=$state/munge/sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$state/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=gpu
ReturnToService=2
SwitchType=switch/none
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd-%n.log
SlurmdParameters=config_overrides
MinJobAge=3600
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
CONF
: >"$state/gres.conf"
echo "AutoDetect=off" >>"$state/gres.conf"
for i in $(seq "$nodes"); do
    echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=4 RealMemory=8000 Gres=gpu:2" \
        "State=UNKNOWN" >>"$state/slurm.conf"
    echo "NodeName=n$i Name=gpu File=/dev/null,/dev/zero" >>"$state/gres.conf"
done
# LLN: the least loaded node first, so that tasks of one array meet both
echo "PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO LLN=YES" >>"$state/slurm.conf"
echo "PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO LLN=YES" >>"$state/slurm.conf"
ln -sf "$state/slurm.conf" "$state/gres.conf" /etc/slurm/

export SLURM_CONF="$state/slurm.conf"
slurmctld -c
for i in $(seq "$nodes"); do
    mkdir -p "$state/spool/n$i"
    slurmd -N "n$i"
done
for _ in $(seq 100); do
    [ "$(sinfo -h -p cpu -N -o %t 2>/dev/null | grep -c idle)" -ge "$nodes" ] && break
    sleep 0.2
done
sinfo
