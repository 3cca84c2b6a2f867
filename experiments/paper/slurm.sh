#!/usr/bin/env bash
# Slurm, one task a GPU: sbatch experiments/paper/slurm.sh paper_4b [KEY=VALUE ...]. Not run: there was no Slurm.
#SBATCH --job-name=g2rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR2@1800
# USR2 half an hour before the limit, to every task: more than the longest step with its evaluation takes.
set -euo pipefail
experiment=${1:?paper_1_7b or paper_4b}
shift
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500}
code=0
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec g2rl-train parallel=fsdp engine=vllm "$@"' _ "experiment=$experiment" "$@" || code=$?
if [ "$code" -eq 75 ]; then  # asked to stop, saved: back into the queue, where the same command continues
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
