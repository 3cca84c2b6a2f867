"""The tables of the pretrained model, from the stored rows: python experiments/lab/tables.py"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from g2rl.analysis.comparison.contrasts import ArmContrast, contrasts
from g2rl.analysis.tables import at_end, interval_cell, is_share, markdown
from g2rl.formulas.intervals import seed_interval

HERE = Path(__file__).parent
PLAIN = "none"
ARMS = {
    PLAIN: "plain GRPO",
    "g2rl": "G2RL, default",
    "g2rl_01_lam3": "G2RL on {0, 1}, λ = 3",
    "poly_epo": "Poly-EPO",
}
"""What the rows call the arms, and what the page calls them."""
TASKS = {
    "arithmetic_sum": ("pass@1", "pass@8"),
    "arithmetic_between": ("pass@1", "pass@32", "distinct"),
}
"""The metrics whose contrasts were written down before the runs."""


def long_frame(task: str) -> pd.DataFrame:
    """The stored rows of a task as one row for each run, metric, and end of the training."""
    rows = []
    for line in (HERE / f"{task}.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        for metric in TASKS[task]:
            for step, when in ((0, "before"), (run["steps"], "after")):
                value = run[f"{metric} {when}"]
                rows.append((run["arm"], run["seed"], step, metric, value))
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "metric", "value"])


def digits(metric: str) -> str:
    """How many digits a metric is shown with."""
    return ".3f" if is_share(metric) else ".2f"


def found_in(frame: pd.DataFrame, metric: str) -> dict[str, ArmContrast]:
    """Each signal minus plain GRPO, by arm; the signals on one metric are a family."""
    return {one.arm: one for one in contrasts(frame, [metric], PLAIN, [metric])}


def mean_cell(frame: pd.DataFrame, arm: str, metric: str) -> str:
    """Mean over seeds with its interval, or the value that all seeds have."""
    ends = at_end(frame, metric)
    values = list(ends[ends["arm"] == arm]["value"])
    if len(set(values)) == 1:
        return format(values[0], digits(metric))
    return interval_cell(*seed_interval(values, is_share=is_share(metric)), digits(metric))


def difference_cell(one: ArmContrast | None) -> str:
    """A difference to plain GRPO with its interval and its p value, adjusted over the family."""
    if one is None or one.result is None:
        return ""
    cell = interval_cell(*one.result[:3], f"+{digits(one.metric)}")
    return f"{cell}, p {one.adjusted:.2g}"


def tables_of(task: str) -> list[str]:
    """What is known before training, the table, and what it could have found, as lines."""
    frame = long_frame(task)
    metrics = TASKS[task]

    # a metric that ends alike in every run has nothing to compare
    found = {}
    for metric in metrics:
        if at_end(frame, metric)["value"].nunique() > 1:
            found[metric] = found_in(frame, metric)
    lines = [f"## {task}", ""]

    # every arm begins at the same policy, so one row a seed says it
    start = []
    for metric in metrics:
        firsts = at_end(frame[frame["arm"] == PLAIN], metric, first=True)["value"]
        start.append(f"{metric} {firsts.mean():{digits(metric)}}")
    lines += [f"Before training: {', '.join(start)}.", ""]

    # means, then differences
    cells = [["", *metrics, *(f"Δ {metric}" for metric in found)]]
    for arm, name in ARMS.items():
        means = [mean_cell(frame, arm, metric) for metric in metrics]
        differences = [difference_cell(signals.get(arm)) for signals in found.values()]
        cells.append([name, *means, *differences])
    lines += [markdown(cells), ""]

    # a difference that was not found says nothing about smaller ones
    for metric, signals in found.items():
        sizes = [one.detectable for one in signals.values()]
        spec = ".2f" if is_share(metric) else ".1f"
        text = f"{min(sizes):{spec}} to {max(sizes):{spec}}"
        lines.append(f"Detectable with probability 0.8, {metric}: {text}.")
    return [*lines, ""]


def main() -> None:
    """Print the tables of both tasks."""
    for task in TASKS:
        print("\n".join(tables_of(task)))


if __name__ == "__main__":
    main()
