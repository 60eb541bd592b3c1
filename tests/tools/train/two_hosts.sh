#!/usr/bin/env bash
# Two hosts on one machine, host-a and host-b: network namespaces with names of their own and a wire
# between them, on which the ranks of a command meet, a process for each.
#
#   two_hosts.sh variables|mpi RANKS_OF_A_HOST COMMAND...
#
# `variables` starts them as torchrun does, `mpi` through mpirun, which reaches host-b by entering
# its namespace. The exit code is the command's; 77, with the reason, where two hosts cannot be had.
set -euo pipefail

skip() {
  echo "two hosts $1" >&2
  exit 77
}

[[ $EUID -eq 0 ]] || skip "want root"
for tool in ip unshare hostname; do
  command -v "$tool" >/dev/null || skip "want $tool"
done
# What is mounted for the namespaces is mounted in here alone, and ends with it.
if [[ ${TWO_HOSTS_ALONE:-} != yes ]]; then
  unshare --mount true 2>/dev/null || skip "want mounts of their own, which are refused"
  TWO_HOSTS_ALONE=yes exec unshare --mount "$0" "$@"
fi

launcher=$1 ranks=$2
shift 2
[[ $launcher == variables ]] || command -v mpirun >/dev/null || skip "want mpirun"
name=engine-$$ # of the namespaces, -a and -b
agent=$(mktemp)

clean_up() {
  for host in a b; do
    ip netns del "$name-$host" 2>/dev/null || true
    rm -rf "/etc/netns/$name-$host"
  done
  rm -f "$agent"
}

make_hosts() {
  for host in a b; do
    ip netns add "$name-$host" 2>/dev/null || skip "want network namespaces, which are refused"
    mkdir -p "/etc/netns/$name-$host"
    printf '127.0.0.1 localhost\n10.213.0.1 host-a\n10.213.0.2 host-b\n' \
      >"/etc/netns/$name-$host/hosts"
  done
  ip link add wire netns "$name-a" type veth peer name wire netns "$name-b" 2>/dev/null ||
    skip "want a wire between namespaces, which is refused"
  ip -n "$name-a" address add 10.213.0.1/24 dev wire
  ip -n "$name-b" address add 10.213.0.2/24 dev wire
  for host in a b; do
    ip -n "$name-$host" link set lo up
    ip -n "$name-$host" link set wire up
    ip netns exec "$name-$host" true 2>/dev/null ||
      skip "want to be entered, which is refused (in a chroot, for one)"
  done
}

# on HOST COMMAND...
on() {
  local host=$1
  shift
  ip netns exec "$name-$host" unshare --uts \
    bash -c 'hostname "host-$0" && exec "$@"' "$host" "$@"
}

with_variables() {
  local rank=0 code=0 pids=()
  export WORLD_SIZE=$((2 * ranks)) LOCAL_WORLD_SIZE=$ranks GROUP_WORLD_SIZE=2
  export MASTER_ADDR=host-a MASTER_PORT=29500
  for host in a b; do
    for ((local_rank = 0; local_rank < ranks; ++local_rank)); do
      RANK=$rank LOCAL_RANK=$local_rank on "$host" "$@" &
      pids+=($!)
      rank=$((rank + 1))
    done
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

# mpirun calls the agent as it would call ssh: with a host, and words for its shell.
with_mpi() {
  cat >"$agent" <<AGENT
#!/usr/bin/env bash
host=\${1#host-}
shift
exec ip netns exec "$name-\$host" unshare --uts \
  bash -c 'hostname "host-\$0" && exec bash -c "\$1"' "\$host" "\$*"
AGENT
  chmod +x "$agent"
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  on a mpirun --bind-to none --host "host-a:$ranks,host-b:$ranks" -np $((2 * ranks)) \
    --mca plm rsh --mca plm_rsh_agent "$agent" --mca oob_tcp_if_include wire \
    --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include wire "$@"
}

trap clean_up EXIT
make_hosts
"with_$launcher" "$@"
