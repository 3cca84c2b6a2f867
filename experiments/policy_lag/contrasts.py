"""Rows and tables of the study of policy lag.

With `--runs FOLDER` the rows of finished runs are stored first; the tables are made from the stored
rows alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import yaml

from g2rl.formulas.contrasts import (
    Contrast,
    detectable_difference,
    holm,
    paired_contrast,
    paired_interval,
)

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"
LAGGED = ("update/sampler_kl", "update/sampler_ratio", "update/sampler_capped")


def store(runs: Path, plan: dict[str, Any]) -> None:
    """Write one row a finished run: held-out numbers, and means over the steps behind the lag."""
    rows = []
    for signal in plan["signals"]:
        for lag in plan["lags"]:
            for seed in plan["seeds"]:
                folder = runs / f"{signal}-lag{lag}-seed{seed}"
                if not (folder / "summary.json").is_file():
                    continue
                steps = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
                row = {"signal": signal, "lag": lag, "seed": seed}
                for metric in plan["metrics"]:
                    row[metric] = steps[-1][f"eval/detour/{metric}"]
                    row[f"before {metric}"] = steps[0][f"eval/detour/{metric}"]
                for name in LAGGED:
                    values = [one[name] for one in steps[1 + lag :] if name in one]
                    if values:
                        row[name] = statistics.mean(values)
                row["accuracy of the last ten steps"] = statistics.mean(
                    one["train/accuracy"] for one in steps[-10:]
                )
                rows.append(row)
    ROWS.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def arm_table(rows: list[dict[str, Any]], plan: dict[str, Any]) -> None:
    """Means over seeds with 95 % t-intervals."""
    names = [*plan["metrics"], *LAGGED]
    print(f"| signal | lag | seeds | {' | '.join(names)} |")
    print("|" + "---|" * (3 + len(names)))
    for signal in plan["signals"]:
        for lag in plan["lags"]:
            arm = [row for row in rows if (row["signal"], row["lag"]) == (signal, lag)]
            cells = []
            for name in names:
                values = [row[name] for row in arm if name in row]
                if not values:
                    cells.append("-")
                    continue
                if len(values) == 1:
                    cells.append(f"{values[0]:.4g}")
                    continue
                interval = paired_interval(values)
                cells.append(f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]")
            print(f"| {signal} | {lag} | {len(arm)} | {' | '.join(cells)} |")


def differences(rows: list[dict[str, Any]], plan: dict[str, Any]) -> dict[str, list[float]]:
    """The contrasts of the plan, seed by seed, of the seeds whose runs are all there."""
    value = {(row["signal"], row["lag"], row["seed"]): row for row in rows}
    plain, signal = plan["signals"]
    found: dict[str, list[float]] = {}
    for metric in plan["metrics"]:
        for name in plan["signals"]:
            for lag in plan["lags"][1:]:
                pairs = [((name, lag, seed), (name, 0, seed)) for seed in plan["seeds"]]
                found[f"{name}: lag {lag} minus lag 0, {metric}"] = [
                    value[one][metric] - value[other][metric]
                    for one, other in pairs
                    if one in value and other in value
                ]
        last = plan["lags"][-1]
        gains = []
        for seed in plan["seeds"]:
            keys = [(name, lag, seed) for lag in (last, 0) for name in (signal, plain)]
            if all(key in value for key in keys):
                a, b, c, d = (value[key][metric] for key in keys)
                gains.append((a - b) - (c - d))
        found[f"gain of {signal} at lag {last} minus its gain at lag 0, {metric}"] = gains
    return found


def contrast_table(found: dict[str, list[float]]) -> None:
    """Every contrast that has been run, with its p value adjusted over the whole family."""
    results: dict[str, Contrast | None] = {}
    for name, values in found.items():
        results[name] = paired_contrast(values) if len(values) > 1 else None

    # contrasts that are still missing count in the family all the same
    p_values = [math.nan if one is None else one.p_value for one in results.values()]
    adjusted = holm(p_values)
    print("| contrast | seeds | difference [95 %] | p | p adjusted | detectable |")
    print("|---|---|---|---|---|---|")
    for (name, result), p_adjusted in zip(results.items(), adjusted, strict=True):
        if result is None:
            continue
        detectable = detectable_difference(result.spread, result.seeds, 0.05 / len(found))
        bold = "**" if p_adjusted <= 0.05 else ""
        print(
            f"| {name} | {result.seeds} | {bold}{result.difference:+.3f} [{result.low:+.3f}, "
            f"{result.high:+.3f}]{bold} | {result.p_value:.3f} | {p_adjusted:.3f} | "
            f"{detectable:.3f} |"
        )


def main() -> None:
    """Store rows if runs are named, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    plan = yaml.safe_load((HERE / "plan.yaml").read_text(encoding="utf-8"))
    if arguments.runs is not None:
        store(arguments.runs, plan)
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    arm_table(rows, plan)
    print()
    contrast_table(differences(rows, plan))


if __name__ == "__main__":
    main()
