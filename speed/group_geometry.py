"""Group geometry: cosines and scores of G responses at D = 2560 (Qwen3-4B), G = 16 to 1024.

The first row is its time as a share of one head pass over a group of G = 64 responses x 16 tokens
at V = 151,936, which is only a part of a training step. The second is how it grows: the exponent of
a power law between the two largest groups.
"""

from __future__ import annotations

import math
import time

import torch
from harness import Row, options, paired_times, ratio_row, report

from g2rl.exploration.g2rl import GradientGuided
from g2rl.policy.lm_head import FeatureRequest, head_pass
from g2rl.types import GroupBatch

D, V, LENGTH = 2560, 151_936, 16


def batch_of(group: int) -> GroupBatch:
    """One group of random features and verdicts."""
    correct_PG = torch.rand(1, group) < 0.5
    return GroupBatch(
        rewards_PG=torch.where(correct_PG, 1.0, -1.0),
        correct_PG=correct_PG,
        lengths_PG=torch.full((1, group), LENGTH),
        features_PGD=torch.randn(1, group, D),
    )


def main() -> None:
    """Time the signal alone, then against a head pass."""
    args = options(__doc__.splitlines()[0], repeats=5)
    torch.manual_seed(0)
    signal = GradientGuided()

    # the fastest of twenty calls for each size
    seconds = {}
    for group in (16, 64, 256, 512, 1024):
        batch = batch_of(group)
        signal(batch)
        times = []
        for _ in range(20):
            started = time.perf_counter()
            signal(batch)
            times.append(time.perf_counter() - started)
        seconds[group] = min(times)
    exponent = math.log2(seconds[1024] / seconds[512])

    # one head pass of a group of 64
    hidden_TD, weight_VD = torch.randn(64 * LENGTH, D), torch.randn(V, D) * 0.02
    targets_T = torch.randint(V, (64 * LENGTH,))
    request = FeatureRequest(torch.arange(64).repeat_interleave(LENGTH), 64, 1.0)
    batch = batch_of(64)

    @torch.no_grad()
    def head() -> object:
        return head_pass(hidden_TD, weight_VD, targets_T, features=request)

    shares = paired_times(lambda: signal(batch), head, min(args.repeats, 3), warmup=1)
    growth = ", ".join(f"G={group} {1e3 * value:.2f} ms" for group, value in seconds.items())
    report(
        [
            ratio_row(
                "G2RL's group geometry, G = 64, D = 2560",
                "one head pass of the group",
                "time",
                *shares,
                "<= 0.01",
            ),
            Row(
                "group geometry's growth",
                "G = 512 to 1024",
                "exponent",
                exponent,
                exponent,
                exponent,
                "<= 2.2",
                growth,
            ),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
