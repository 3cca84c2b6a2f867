"""Gradient cosines during training, by pair class, from the geometry files that runs write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from g2rl.analysis.comparison.runs import COLUMNS, GEOMETRY_PREFIX
from g2rl.formulas.feature_sums import identity_metrics_of
from g2rl.formulas.pairs import cosine_metrics
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import parquet_named

COLUMNS_READ = ("sample", "correct", "cosine", "tokens", "feature_norm", "first_alike")


def step_numbers(path: Path) -> dict[str, float] | None:
    """Cosines, negative pairs and identity ratio of one step's file; None where it holds none.

    Raises:
        ValueError: the file is no table, or the rows are no whole groups.
    """
    from pyarrow import parquet

    # signals without features write no cosines
    with parquet_named(path):
        names = parquet.read_schema(path).names
        if "cosine" not in names:
            return None
        table = pd.read_parquet(path, columns=[name for name in COLUMNS_READ if name in names])

    # one row a response, group after group
    group = int(table["sample"].max()) + 1
    if table["sample"].tolist() != list(range(group)) * (len(table) // group):
        raise ValueError(f"{path} does not hold whole groups of {group} responses in order")

    # a row's cosines are its row of the group's matrix
    cosine_NG = torch.tensor(np.stack(table["cosine"].to_numpy()), dtype=torch.float64)
    correct_N = torch.tensor(table["correct"].to_numpy(copy=True))
    cosine_PGG = cosine_NG.view(-1, group, group)
    metrics = cosine_metrics(cosine_PGG, correct_N.view(-1, group))

    # files of earlier versions do not say which responses are identical
    first_PG = None
    if "first_alike" in table:
        first_PG = torch.tensor(table["first_alike"].to_numpy(copy=True)).view(-1, group)

    # features of these norms have these cosines: an identity that needs no features, but lengths
    if not {"tokens", "feature_norm"} <= set(table):
        return metrics
    lengths_PG = torch.tensor(table["tokens"].to_numpy(copy=True)).view(-1, group)
    norms_PG = torch.tensor(table["feature_norm"].to_numpy(copy=True)).view(-1, group)
    return metrics | identity_metrics_of(norms_PG.double() * lengths_PG, cosine_PGG, first_PG)


def training_geometry(frame: pd.DataFrame) -> pd.DataFrame:
    """The geometry of every run in a frame of `collect`, in the same columns.

    Empty where no run wrote cosines: they are written by exploration=g2rl and under
    `exploration.observe=[g2rl]`.
    """
    rows = []
    for (arm, seed, run), _ in frame.groupby(["arm", "seed", "run"], sort=False):
        # one file a step, in the order of steps
        for step, path in RunFolder(Path(run)).table_files("geometry").items():
            metrics = step_numbers(path)
            if metrics is None:
                break  # a run writes cosines at every step or at none
            for name, value in metrics.items():
                rows.append((arm, seed, run, step, f"{GEOMETRY_PREFIX}{name}", value))
    return pd.DataFrame(rows, columns=list(COLUMNS))
