#!/usr/bin/env bash
# Two signals under three lags, three seeds.   bash experiments/policy_lag/run.sh
# From the repository's root, after `make train` has set up .venv. One run after another, one thread; finished runs are skipped.
set -euo pipefail
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
OUT=${OUT:-runs/policy_lag} TRAIN=${TRAIN:-.venv/bin/g2rl-train}
READING="exploration=g2rl exploration.reward=01 exploration.spread=none exploration.clip=null exploration.lam=3 algorithm.uniform_groups=drop"
mkdir -p "$OUT"
for seed in 0 1 2; do
  for lag in 0 1 4; do
    $TRAIN experiment=bakeoff_detour optimizer.lr=5e-4 report=false "seed=$seed" "trainer.lag=$lag" \
      exploration=none "hydra.run.dir=$OUT/grpo-lag$lag-seed$seed" > /dev/null
    # shellcheck disable=SC2086
    $TRAIN experiment=bakeoff_detour optimizer.lr=5e-4 report=false "seed=$seed" "trainer.lag=$lag" \
      $READING "hydra.run.dir=$OUT/g2rl_01_lam3-lag$lag-seed$seed" > /dev/null
  done
done
