#!/usr/bin/env bash
# Mean gradient cosine over sampling x scoring temperatures.   bash experiments/temperature_grid/run.sh RUN DATA_DIR
# RUN: a finished run of plain GRPO on the embedded default (exploration=none seed=0); DATA_DIR: a folder with math500.jsonl
set -euo pipefail
RUN=${1:?a finished run} DATA=${2:?a folder with math500.jsonl} OUT=${OUT:-runs/temperature_grid}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
ANALYZE=${ANALYZE:-.venv/bin/g2rl-analyze}
GRID='problems=128 responses=8 sampled_at=[0.6,1.0,1.4] scored_at=[0.6,1.0,1.4] embed=false'
"$ANALYZE" geometry model=tiny $GRID "hydra.run.dir=$OUT/base"
"$ANALYZE" geometry "run=$RUN" $GRID "hydra.run.dir=$OUT/trained"
"$ANALYZE" geometry model=smollm2_135m task=math "data_dir=$DATA" problems=8 responses=6 \
  'sampled_at=[0.6,1.0]' 'scored_at=[0.6,1.0]' embed=false task.max_response_tokens=64 "hydra.run.dir=$OUT/smollm2"
