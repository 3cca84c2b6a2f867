#!/usr/bin/env bash
# One node of 8 GPUs: experiments/paper/node.sh paper_1_7b [KEY=VALUE ...]. Not run: needs GPUs.
set -euo pipefail
experiment=${1:?paper_1_7b or paper_4b}
shift
exec torchrun --standalone --nproc-per-node "${GPUS:-8}" --shutdown-timeout 1800 \
    -m g2rl.cli.train parallel=fsdp engine=vllm "experiment=$experiment" "$@"
