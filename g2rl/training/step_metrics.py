"""Metrics of one training step that no other stage reports: accuracy, health of the batch, time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from g2rl.engines.rollouts import Rollouts
from g2rl.types import GroupBatch, Shaped
from g2rl.world import World


def train_metrics(rollouts: Rollouts, batch: GroupBatch, shaped: Shaped) -> dict[str, float]:
    """Accuracy and health of the sampled batch; rewards here are the verifier's, unshaped.

    A value that is not finite is left out (explore/nonfinite_groups counts the groups it came
    from).
    """
    # how many responses were cut at the token limit, how many say nothing
    response_count = len(rollouts.flat)
    truncated_count = 0
    truncated_group_count = 0
    for group in rollouts.completions:
        truncated = [completion.finish == "length" for completion in group]
        truncated_count += sum(truncated)
        truncated_group_count += all(truncated)
    empty_count = sum(not completion.text.strip() for completion in rollouts.flat)

    # accuracy, reward and lengths over all responses
    lengths_PG = batch.lengths_PG.float()
    metrics = {
        "train/accuracy": batch.correct_PG.float().mean().item(),
        "train/reward": batch.rewards_PG.mean().item(),
        "train/solved_any": batch.correct_PG.any(-1).float().mean().item(),
        "train/length": lengths_PG.mean().item(),
        "train/length_max": lengths_PG.max().item(),
        "train/truncated": truncated_count / response_count,
        "train/truncated_groups": truncated_group_count / len(rollouts.completions),
        "train/empty": empty_count / response_count,
        "explore/reward_shift": (shaped.rewards_PG - batch.rewards_PG).abs().mean().item(),
    }

    # not every signal or loss asks for entropies
    if batch.entropy_PG is not None:
        metrics["train/entropy"] = batch.entropy_PG.mean().item()
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


class Clock:
    """Seconds between laps, as time/NAME; these are the only metrics that differ between equal
    runs.

    Args:
        on_lap: is told the name of every lap that ends.
    """

    def __init__(self, on_lap: Callable[[str], None] | None = None) -> None:
        self.on_lap = on_lap or (lambda name: None)
        self.started = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a lap; the next one begins."""
        now = time.perf_counter()
        self.laps[f"time/{name}"] = now - self.last
        self.on_lap(name)
        self.last = now

    def metrics(self) -> dict[str, float]:
        """Seconds of every lap so far, and of the whole step."""
        return {**self.laps, "time/step": time.perf_counter() - self.started}


def slowest(world: World, seconds: dict[str, float]) -> dict[str, float]:
    """The largest value of all ranks, name by name: what the other ranks wait for."""
    seconds_of_ranks = world.gather(seconds)
    return {name: max(other[name] for other in seconds_of_ranks) for name in seconds}


def verdict_shares(world: World, metrics: dict[str, float]) -> dict[str, float]:
    """Join what the graders of all ranks count.

    Args:
        world: the ranks.
        metrics: this rank's verify/total, and shares of that total by name.

    Returns:
        The sum of the totals, and the shares of that sum.
    """
    metrics_of_ranks = world.gather(metrics)
    total = sum(other["verify/total"] for other in metrics_of_ranks)
    if world.size == 1 or not total:
        return metrics

    # a share of one rank counts by the number of verdicts it is a share of
    joined = {"verify/total": total}
    for name in metrics:
        if name != "verify/total":
            count = sum(other[name] * other["verify/total"] for other in metrics_of_ranks)
            joined[name] = count / total
    return joined
