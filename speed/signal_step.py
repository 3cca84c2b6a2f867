"""A whole training step with exploration=g2rl against exploration=none, on the same completions.

The tiny policy samples 16 x 16 responses once, and both sides get them. Under `none` the first of
two mini-batches is scored by its own update forward. `g2rl` needs its features earlier, makes that
forward early and keeps it for the update. The first row leaves out sampling, the second includes
it. In the third the token budget is so small that no forward can be kept, as with long responses:
the first mini-batch is forwarded twice.
"""

from __future__ import annotations

from builder import make_trainer, replay
from harness import options, paired_times, ratio_row, report


def main() -> None:
    """Time the three pairs of steps."""
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

        # the sides have done nothing yet: two steps of warm-up
        times = paired_times(
            lambda t=ours: t.step(1), lambda t=peer: t.step(1), args.repeats, warmup=2
        )
        rows.append(ratio_row(label, "exploration=none", "time", *times, target))
    report(rows, args.json)


if __name__ == "__main__":
    main()
