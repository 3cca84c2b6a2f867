#!/usr/bin/env bash
# Four signals x three seeds on the embedded default, two runs at a time (one thread each).
# From the repository's root, after `make train` has set up .venv:   bash experiments/embedded_default/run.sh
set -euo pipefail
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
OUT=${OUT:-runs/embedded_default}
TRAIN=${TRAIN:-.venv/bin/g2rl-train}
one() { "$TRAIN" "exploration=$1" "seed=$2" tracking=local "hydra.run.dir=$OUT/$1/seed$2" > "$OUT/$1-seed$2.log" 2>&1; }
export -f one
export OUT TRAIN
mkdir -p "$OUT"
for seed in 0 1 2; do for signal in none entropy g2rl evol; do echo "$signal $seed"; done; done |
  xargs -P 2 -L 1 bash -c 'one "$0" "$1"'
"$(dirname "$TRAIN")/python" experiments/embedded_default/collect.py "$OUT"
