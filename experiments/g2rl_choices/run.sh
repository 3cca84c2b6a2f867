#!/usr/bin/env bash
# The choices that the paper leaves open, larger groups, longer training, a higher rate.   bash experiments/g2rl_choices/run.sh
# From the repository's root, after `make train` has set up .venv. Two runs at a time, one thread each; finished
# runs are skipped. Compares with runs/signals (g2rl-train experiment=signals): none and g2rl, seeds 0 to 2.
set -euo pipefail
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export OUT=${OUT:-runs/g2rl_choices} TRAIN=${TRAIN:-.venv/bin/g2rl-train}
one() { "$TRAIN" tracking=local "hydra.run.dir=$OUT/$1" "${@:2}" > /dev/null; }
export -f one
mkdir -p "$OUT"
NONE="exploration=none exploration.observe=[g2rl]" G2RL="exploration=g2rl"
DROP="exploration=g2rl algorithm.uniform_groups=drop"
BIG="trainer.prompts_per_step=4 trainer.group_size=64" HOT="optimizer.lr=6e-4"
LONG="trainer.steps=150 trainer.eval_every=50"
{
  for seed in 0 1 2; do
    echo "choices/drop/seed$seed seed=$seed $DROP"
    echo "choices/equation/seed$seed seed=$seed $G2RL exploration.negatives=equation"
    echo "choices/centered/seed$seed seed=$seed $G2RL exploration.negatives=centered"
    echo "choices/projection/seed$seed seed=$seed $G2RL exploration.score=projection"
    echo "choices/rank/seed$seed seed=$seed $G2RL exploration.normalize=rank"
    echo "groups64/none/seed$seed seed=$seed $NONE $BIG"
    echo "groups64/g2rl/seed$seed seed=$seed $G2RL $BIG"
    echo "groups64/drop/seed$seed seed=$seed $DROP $BIG"
    echo "hot/entropy/seed$seed seed=$seed exploration=entropy exploration.observe=[g2rl] $HOT"
    echo "hot/evol/seed$seed seed=$seed exploration=evol exploration.observe=[g2rl] $HOT"
  done
  for seed in 0 1; do
    echo "long150/none/seed$seed seed=$seed $NONE $LONG"
    echo "long150/g2rl/seed$seed seed=$seed $G2RL $LONG"
    echo "long150/drop/seed$seed seed=$seed $DROP $LONG"
  done
  for seed in 0 1 2 3 4; do
    echo "hot/none/seed$seed seed=$seed $NONE $HOT"
    echo "hot/g2rl/seed$seed seed=$seed $G2RL $HOT"
    echo "hot/drop/seed$seed seed=$seed $DROP $HOT"
  done
} | xargs -P 2 -L 1 bash -c 'one "$@"' _
