#!/usr/bin/env bash
# Two nodes on one machine: network namespaces joined by a veth pair, an sshd in each. Needs root, ip, sshd, ssh and pdsh.
#
#   tests/two_nodes.sh  FOLDER COMMAND... make the nodes, run COMMAND in the first, remove them
#
# FOLDER gets keys, configuration and logs, and `hostfile` with a slot on each node. COMMAND finds the nodes' names in NODE_1
# and NODE_2, their namespaces in NETNS_1 and NETNS_2, and ssh's options in PDSH_SSH_ARGS_APPEND. Everything outside FOLDER is
# gone afterwards, however it ends.
set -euo pipefail

missing() {
    [[ $(id -u) == 0 ]] || { echo "needs root"; return; }
    for tool in ip ssh ssh-keygen pdsh /usr/sbin/sshd; do
        command -v "$tool" > /dev/null || { echo "needs $tool"; return; }
    done
    ip netns add "probe-$$" 2> /dev/null && ip netns delete "probe-$$" || echo "may not make network namespaces here"
}

reason=$(missing)
[[ -z $reason ]] || { echo "skipped: $reason"; exit 77; }

folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
id=$$
export NETNS_1=compact-$id-1 NETNS_2=compact-$id-2 NODE_1=10.77.0.1 NODE_2=10.77.0.2

clean() {
    trap - EXIT INT TERM HUP
    local netns pids
    for netns in "$NETNS_1" "$NETNS_2"; do
        pids=$(ip netns pids "$netns" 2> /dev/null || true)
        [[ -z $pids ]] || kill -KILL $pids 2> /dev/null || true
        ip netns delete "$netns" 2> /dev/null || true
    done
    rm -f "$folder"/*_key "$folder"/*_key.pub
}
trap clean EXIT
trap 'exit 130' INT TERM HUP

ssh-keygen -q -t ed25519 -N '' -f "$folder/user_key"
: > "$folder/known_hosts"
: > "$folder/hostfile"
ip netns add "$NETNS_1"
ip netns add "$NETNS_2"
ip link add eth77 netns "$NETNS_1" type veth peer name eth77 netns "$NETNS_2"
mkdir -p /run/sshd
number=0
for netns in "$NETNS_1" "$NETNS_2"; do
    number=$((number + 1))
    address=10.77.0.$number
    ip -n "$netns" address add "$address/24" dev eth77
    ip -n "$netns" link set eth77 up
    ip -n "$netns" link set lo up
    ssh-keygen -q -t ed25519 -N '' -f "$folder/host_${number}_key"
    echo "$address $(cut -d' ' -f1,2 "$folder/host_${number}_key.pub")" >> "$folder/known_hosts"
    echo "$address slots=1" >> "$folder/hostfile"
    ip netns exec "$netns" /usr/sbin/sshd -f /dev/null -E "$folder/sshd_$number.log" -h "$folder/host_${number}_key" \
        -o ListenAddress="$address" -o PidFile=none -o UsePAM=no -o PasswordAuthentication=no -o PermitRootLogin=yes \
        -o AuthorizedKeysFile="$folder/user_key.pub" -o StrictModes=no
done
export PDSH_SSH_ARGS_APPEND="-F /dev/null -i $folder/user_key -o IdentitiesOnly=yes -o UserKnownHostsFile=$folder/known_hosts"
cd "$folder"
# Not exec: this shell stays to clean up, and passes a signal on before it does.
ip netns exec "$NETNS_1" "$@" &
child=$!
trap 'kill -TERM $child 2> /dev/null; wait $child; exit 130' INT TERM HUP
wait $child
