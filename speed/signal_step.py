"""A whole training step with exploration=g2rl against exploration=none, on the same completions.

Tiny policy, 16 x 16 responses sampled once and given to both sides. `none` leaves half of its
scoring pass to the first update's own forward (nothing looks at it before); `g2rl` makes that
forward early and keeps it for the update. The first row leaves out sampling, the second brings it
back. A third has so small a budget of tokens that nothing can be kept, as with long responses: the
first mini-batch is forwarded once more.
"""

from __future__ import annotations

from builder import make_trainer, replay
from harness import options, paired_times, ratio_row, report


def main() -> None:
    args = options(__doc__.splitlines()[0], repeats=7)
    plain, small = "optimizer.lr=1e-9", "optimizer.micro_batch_tokens=2048"
    rows = []
    for label, overrides, replayed, target in (
        ("step after sampling, exploration=g2rl", (plain,), True, "<= 1.03"),
        ("whole step, exploration=g2rl", (plain,), False, "<= 1.03"),
        ("step after sampling, forward not kept, exploration=g2rl", (plain, small), True, ""),
    ):
        ours, peer = (make_trainer(f"exploration={name}", *overrides) for name in ("g2rl", "none"))
        if replayed:
            replay(ours, 1)
            replay(peer, 1)
        times = paired_times(
            lambda t=ours: t.step(1), lambda t=peer: t.step(1), args.repeats, warmup=2
        )
        rows.append(ratio_row(label, "exploration=none", "time", *times, target))
    report(rows, args.json)


if __name__ == "__main__":
    main()
