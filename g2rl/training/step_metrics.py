"""Metrics of one training step that no other stage reports: accuracy, health of the batch, time."""

from __future__ import annotations

import math
import time

from g2rl.engines.rollouts import Rollouts
from g2rl.types import GroupBatch, Shaped
from g2rl.world import World


def train_metrics(rollouts: Rollouts, batch: GroupBatch, shaped: Shaped) -> dict[str, float]:
    """Accuracy and health of the sampled batch; rewards here are the verifier's, unshaped.

    The entropy is left out when it is not finite (explore/nonfinite_groups counts it).
    """
    lengths = batch.lengths_PG.float()
    cut = [[c.finish == "length" for c in group] for group in rollouts.completions]
    metrics = {
        "train/accuracy": batch.correct_PG.float().mean().item(),
        "train/reward": batch.rewards_PG.mean().item(),
        "train/solved_any": batch.correct_PG.any(-1).float().mean().item(),
        "train/length": lengths.mean().item(),
        "train/length_max": lengths.max().item(),
        "train/truncated": sum(map(sum, cut)) / len(rollouts.flat),
        "train/truncated_groups": sum(map(all, cut)) / len(cut),
        "train/empty": sum(not c.text.strip() for c in rollouts.flat) / len(rollouts.flat),
        "explore/reward_shift": (shaped.rewards_PG - batch.rewards_PG).abs().mean().item(),
    }
    if batch.entropy_PG is not None:
        metrics["train/entropy"] = batch.entropy_PG.mean().item()
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


class Clock:
    """Seconds between laps, as time/NAME; these are the only metrics that differ between equal runs."""

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[f"time/{name}"] = now - self.last
        self.last = now

    def metrics(self) -> dict[str, float]:
        return {**self.laps, "time/step": time.perf_counter() - self.started}


def slowest(world: World, seconds: dict[str, float]) -> dict[str, float]:
    """The largest of all ranks' values, name by name: what the others wait for."""
    parts = world.gather(seconds)
    return {name: max(part[name] for part in parts) for name in seconds}


def verdict_shares(world: World, metrics: dict[str, float]) -> dict[str, float]:
    """What the graders of all ranks count: verify/total, and shares of it."""
    parts = world.gather(metrics)
    total = sum(part["verify/total"] for part in parts)
    if world.size == 1 or not total:
        return metrics
    shares = {
        name: sum(part[name] * part["verify/total"] for part in parts) / total
        for name in metrics
        if name != "verify/total"
    }
    return {"verify/total": total, **shares}
