#!/usr/bin/env bash
#SBATCH --job-name=ldm-scale
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
# A Ray on the nodes of a Slurm allocation, for one command; it ends with the command.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: sbatch [--nodes N] [--gpus-per-node G] [--time T] ... clusters/slurm.sh COMMAND ...

  sbatch --nodes 4 --gpus-per-node 8 clusters/slurm.sh python jobs/imagenet.py --out /shared/runs/imagenet
  sbatch clusters/slurm.sh ldm-scale audit --shards /shared/data --target /shared/model --out /shared/runs/mine

Ray starts on every node, behind a token of this job, and COMMAND runs on the first one. Submit from a shell in which
`ray` is on the PATH, in a folder that all nodes see. The same command again goes on where a job was ended.

exit status: that of COMMAND; 2 the command is to be fixed
TEXT
}

misused() { printf 'slurm.sh: error: %s (see --help)\n' "$1" >&2; exit 2; }

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage; exit; }
(($#)) || misused "give the command to run"
[[ -n ${SLURM_JOB_ID:-} ]] || misused "there is no Slurm allocation: submit it with sbatch, or call it after salloc"
command -v ray >/dev/null || misused "no ray on the PATH: activate the environment that ldm_scale is installed in"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# Its own address: many nodes resolve their own name to loopback, which the others cannot reach.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | cut -d' ' -f1)
# Jobs of others may run a Ray on this node, too.
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
# Seconds in which all nodes have to come; Ray's 30 are few if it is loaded from a shared file system.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

# What stands in quotes is for the shell of each node.
# shellcheck disable=SC2016
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
    bash -c 'exec ray symmetric-run --address "$0" --min-nodes "$SLURM_JOB_NUM_NODES" \
        --num-cpus "$SLURM_CPUS_ON_NODE" -- env RAY_ADDRESS="$0" "$@"' "$address:$port" "$@"
