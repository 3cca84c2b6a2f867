"""Correlations of the predictors with the true cosines, with intervals, as plain data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from g2rl.analysis.fidelity.measure import Measured
from g2rl.analysis.fidelity.names import DISTINCT, TOTAL, TRUE
from g2rl.analysis.fidelity.records import (
    BlockSummary,
    CorrelationRow,
    FidelitySummary,
    IntervalRecord,
    Moments,
    NoveltySummary,
    ProjectionError,
    RivalRow,
    WithinRecord,
)
from g2rl.analysis.fidelity.true_gradients import sketch_error
from g2rl.formulas.correlation import Correlation, correlate, difference
from g2rl.formulas.estimators import Interval
from g2rl.formulas.pairs import PAIR_CLASSES

PREDICTORS = ("phi", "entropy", "hidden", "embedding", "ngram", "verdict")


def summarise(
    measured: Measured, *, projection: int | None, resamples: int, seed: int
) -> FidelitySummary:
    """Correlations of each predictor with the true cosines: all pairs, by class, by block; and of
    nu.

    Args:
        projection: cells of the sketch with which the gradients were taken; None is exact.
        resamples, seed: of the bootstrap over problems.
    """
    # which predictors there are: an encoder is optional
    pairs, responses = measured.pairs, measured.responses
    names = [name for name in PREDICTORS if name in pairs]

    # every block with all pairs, then every class of pairs with the whole gradient
    rows = []
    for target in (TOTAL, *measured.blocks):
        for name in names:
            rows.append(_row(pairs, name, target, "all", resamples, seed))
    for label, subset in pair_subsets(pairs).items():
        for name in names:
            # inside a class of verdicts the verdict is constant
            if name != "verdict" or label == DISTINCT:
                rows.append(_row(subset, name, TOTAL, label, resamples, seed))

    return {
        "pairs": len(pairs),
        "groups": int(pairs["problem"].nunique()),
        "identical_pairs": int(pairs["identical"].sum()),
        "zero_gradients": int((responses[f"norm/{TOTAL}"] == 0).sum()),
        "accuracy": float(responses["correct"].mean()),
        "true_cosine": _moments(pairs, TRUE + TOTAL),
        "phi_cosine": _moments(pairs, "phi"),
        "blocks": _blocks(measured),
        "projection": _projection_error(pairs[TRUE + TOTAL].to_numpy(), projection),
        "correlations": rows,
        "phi_minus_rival": _differences(pairs, names, resamples, seed),
        "novelty": _novelty(responses, resamples, seed),
    }


def pair_subsets(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The pairs of different token sequences, and those of each class; empty ones are left out."""
    # identical responses are most alike under every predictor, so they flatter all
    subsets = {DISTINCT: pairs[~pairs["identical"]]}
    for label in PAIR_CLASSES:
        subsets[label] = pairs[pairs["pair"] == label]
    return {label: subset for label, subset in subsets.items() if len(subset)}


def _group_numbers(frame: pd.DataFrame) -> np.ndarray:
    """Number of the problem of each row."""
    return pd.factorize(frame["problem"])[0]


def _row(
    pairs: pd.DataFrame, name: str, target: str, label: str, resamples: int, seed: int
) -> CorrelationRow:
    """Both correlations of one predictor with one block's cosines, over one class of pairs."""
    # a problem is resampled as a whole: its pairs share responses
    x, y = pairs[name].to_numpy(), pairs[TRUE + target].to_numpy()
    groups = _group_numbers(pairs)
    pearson = correlate(x, y, groups, "pearson", resamples, seed)
    spearman = correlate(x, y, groups, "spearman", resamples, seed)
    return {
        "target": target,
        "predictor": name,
        "class": label,
        "pairs": len(pairs),
        "pearson": plain(pearson.pooled),
        "pearson_within": _within(pearson),
        "pearson_undefined_resamples": pearson.undefined,
        "spearman": plain(spearman.pooled),
        "spearman_within": _within(spearman),
        "spearman_undefined_resamples": spearman.undefined,
    }


def _differences(
    pairs: pd.DataFrame, names: Sequence[str], resamples: int, seed: int
) -> list[RivalRow]:
    """Correlation of Phi minus that of each rival, with paired intervals."""
    # the same resamples for Phi and the rival, so that the difference is paired
    groups, y = _group_numbers(pairs), pairs[TRUE + TOTAL].to_numpy()
    phi = pairs["phi"].to_numpy()
    rows: list[RivalRow] = []
    for name in names:
        if name == "phi":
            continue
        rival = pairs[name].to_numpy()
        pearson = difference(phi, rival, y, groups, "pearson", resamples, seed)
        spearman = difference(phi, rival, y, groups, "spearman", resamples, seed)
        rows.append({"rival": name, "pearson": plain(pearson), "spearman": plain(spearman)})
    return rows


def _novelty(responses: pd.DataFrame, resamples: int, seed: int) -> NoveltySummary:
    # over responses instead of pairs
    x, y = responses["nu_phi"].to_numpy(), responses["nu_true"].to_numpy()
    groups = _group_numbers(responses)
    pearson = correlate(x, y, groups, "pearson", resamples, seed)
    spearman = correlate(x, y, groups, "spearman", resamples, seed)
    return {
        "mean_phi": float(x.mean()),
        "mean_true": float(y.mean()),
        "pearson": plain(pearson.pooled),
        "pearson_within": _within(pearson),
        "spearman": plain(spearman.pooled),
        "spearman_within": _within(spearman),
    }


def _moments(pairs: pd.DataFrame, name: str) -> Moments:
    # by class as well, because pairs of right answers may lie closer together
    values = pairs[name]
    by_class = {label: float(group.mean()) for label, group in values.groupby(pairs["pair"])}
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=0)),
        "negative": float((values < 0).mean()),
        "mean_by_class": by_class,
    }


def _blocks(measured: Measured) -> dict[str, BlockSummary]:
    """Size of each block, and its share of the squared norm summed over responses."""
    # norms are of single responses, squares add up over blocks
    total = (measured.responses[f"norm/{TOTAL}"] ** 2).sum()
    blocks: dict[str, BlockSummary] = {}
    for name, parameters in measured.blocks.items():
        square = (measured.responses[f"norm/{name}"] ** 2).sum()
        blocks[name] = {"parameters": parameters, "gradient_share": float(square / total)}
    return blocks


def _projection_error(cosine: np.ndarray, projection: int | None) -> ProjectionError | None:
    """None for exact gradients."""
    if projection is None:
        return None

    # root mean square of the bound over pairs, against the spread of the cosines
    error = float(np.sqrt(np.mean(sketch_error(cosine, projection) ** 2)))
    variance = float(cosine.var())
    reliability = max(1 - error**2 / variance, 0.0) if variance > 0 else 0.0
    return {"cells": projection, "standard_error": error, "reliability": reliability}


def plain(interval: Interval) -> IntervalRecord:
    """An interval for JSON."""
    value, low, high = (None if np.isnan(number) else float(number) for number in interval)
    return {"value": value, "low": low, "high": high}


def _within(correlation: Correlation) -> WithinRecord:
    return {**plain(correlation.within), "groups": correlation.groups}
