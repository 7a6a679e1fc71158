#!/usr/bin/env bash
# Slurm on this machine alone, with a controller and munge of its own, for as long as COMMAND runs. Needs root, slurmctld, munged.
#
#   tests/slurm_machine.sh FOLDER COMMAND...
#
# Two nodes are declared and no slurmd runs on them: enough for `sbatch --test-only`, which asks the controller.
set -euo pipefail

for tool in slurmctld munged sbatch; do
    PATH=$PATH:/usr/sbin command -v "$tool" > /dev/null || { echo "skipped: needs $tool"; exit 77; }
done
[[ $(id -u) == 0 ]] || { echo "skipped: needs root"; exit 77; }

folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
chmod 755 "$folder"
mkdir -p "$folder/state"
head -c 128 /dev/urandom > "$folder/munge.key"
chmod 400 "$folder/munge.key"
/usr/sbin/munged --force --foreground --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" &
munged=$!
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$folder/slurm.conf" <<CONF
ClusterName=alone
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
ReturnToService=2
SlurmdTimeout=0
GresTypes=gpu
NodeName=node[1-2] NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 Gres=gpu:8 State=IDLE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
/usr/sbin/slurmctld -D -f "$SLURM_CONF" > "$folder/controller.out" 2>&1 &
controller=$!
trap 'kill $controller $munged 2> /dev/null; wait 2> /dev/null || true' EXIT
for _ in $(seq 100); do
    scontrol ping 2> /dev/null | grep -q "is UP" && break
    sleep 0.1
done
"$@"
