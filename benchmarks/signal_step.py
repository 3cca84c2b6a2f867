"""A whole training step with exploration=g2rl against exploration=none, on the same completions.

Tiny policy, 16 x 16 responses sampled once and given to both sides. `none` may leave half of its scoring
pass to the first update's own forward (nothing looks at it before); the first row has both sides score
everything, as they must when a signal or a sampler's log-probabilities are compared, and so is the price of
the signal alone; the second row takes `none` as it runs. Both leave out sampling, which would bring the
ratios nearer to 1, and a third brings it back.
"""

from __future__ import annotations

from builder import make_trainer, replay
from harness import options, paired_times, ratio_row, report


def main() -> None:
    args = options(__doc__.splitlines()[0], repeats=7)
    guided, full, lean = (
        make_trainer(f"exploration={name}", "optimizer.lr=1e-9") for name in ("g2rl", "none", "none")
    )
    full.needs = frozenset({"entropy"})
    with_sampling = [make_trainer(f"exploration={name}", "optimizer.lr=1e-9") for name in ("g2rl", "none")]
    for trainer in (guided, full, lean):
        replay(trainer, 1)
    rows = []
    for label, ours, peer, target in (
        ("step after sampling, exploration=g2rl", guided, full, "<= 1.03"),
        ("step after sampling, exploration=g2rl", guided, lean, ""),
        ("whole step, exploration=g2rl", *with_sampling, "<= 1.03"),
    ):
        against = "exploration=none" + (", scoring all" if peer is full else ", scoring half")
        times = paired_times(lambda t=ours: t.step(1), lambda t=peer: t.step(1), args.repeats, warmup=2)
        rows.append(ratio_row(label, against, "time", *times, target))
    report(rows, args.json)


if __name__ == "__main__":
    main()
