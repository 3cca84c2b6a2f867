"""From features of whole groups to data frames: pairs, groups, and every number with its interval.

A pair statistic is pooled over the pairs of all groups (a group with more correct-wrong pairs
weighs more); a group statistic is averaged over groups. Intervals are 95 % percentile bootstrap
over groups, since pairs of one group share responses and are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from g2rl.formulas.diversity import BINS, NEAR_ORTHOGONAL, Floats, entropy, group_numbers, histogram
from g2rl.formulas.estimators import Interval, bootstrap_interval
from g2rl.formulas.pairs import ALL_PAIRS, PAIR_CLASSES, pair_table
from g2rl.formulas.tensors import cosine_matrix

ALL = ALL_PAIRS
GRADIENT, SEMANTIC = "gradient", "semantic"  # spaces in which cosines are taken
PAIR_METRICS = ("mean_cosine", "negative_ratio", "near_orthogonal_ratio", "histogram_entropy")
GROUP_METRICS = ("effective_rank", "participation_ratio", "vendi_score")
_CELLS = 4_000_000  # elements of the largest array of a resampling loop


def pair_frame(features_PGD: Tensor, correct_PG: Tensor) -> pd.DataFrame:
    """One row a pair i < j of a group: problem (its number), first, second, cosine, pair (its
    class)."""
    cosine_PGG, _ = cosine_matrix(features_PGD.double())
    return pd.DataFrame(pair_table(cosine_PGG, correct_PG))


def group_frame(
    features_PGD: Tensor, correct_PG: Tensor, threshold: float = NEAR_ORTHOGONAL
) -> pd.DataFrame:
    """One row a group: problem (its number) and the numbers of `group_numbers`."""
    rows = [
        {
            "problem": place,
            **group_numbers(features_GD.double().numpy(), correct_G.numpy(), threshold),
        }
        for place, (features_GD, correct_G) in enumerate(zip(features_PGD, correct_PG, strict=True))
    ]
    return pd.DataFrame(rows)


def numbers(
    pairs: pd.DataFrame, groups: pd.DataFrame, threshold: float = NEAR_ORTHOGONAL, bins: int = BINS
) -> pd.DataFrame:
    """Every number by pair class: columns pair, metric, value, low, high, pairs, problems.

    Args:
        pairs: of `pair_frame`, or its columns problem, cosine, pair.
        groups: of `group_frame`; its numbers have the class "all".

    A class without a pair has no row. `problems` counts the groups that hold a pair of the class,
    and only they are resampled for it.
    """
    rows = []
    for name in (ALL, *reversed(PAIR_CLASSES)):
        chosen = pairs if name == ALL else pairs[pairs["pair"] == name]
        if len(chosen):
            held = chosen["problem"].nunique()
            for metric, interval in _pair_intervals(chosen, threshold, bins).items():
                rows.append((name, metric, *interval, len(chosen), held))
    for metric in GROUP_METRICS:
        interval = bootstrap_interval(groups[metric].to_numpy())
        rows.append((ALL, metric, *interval, len(pairs), len(groups)))
    return pd.DataFrame(
        rows, columns=["pair", "metric", "value", "low", "high", "pairs", "problems"]
    )


def _pair_intervals(pairs: pd.DataFrame, threshold: float, bins: int) -> dict[str, Interval]:
    """Interval of each pair metric from sums over the groups."""
    sums = []
    for _, values in pairs.groupby("problem")["cosine"]:
        v = values.to_numpy()
        sums.append(
            [len(v), v.sum(), (v < 0).sum(), (np.abs(v) < threshold).sum(), *histogram(v, bins)]
        )
    parts_BK = np.array(sums, dtype=np.float64)
    found = {
        metric: sums_interval(parts_BK[:, [column, 0]], _ratio)
        for column, metric in enumerate(PAIR_METRICS[:3], start=1)
    }
    return {**found, "histogram_entropy": sums_interval(parts_BK[:, 4:], entropy)}


def _ratio(sums_RK: Floats) -> Floats:
    return sums_RK[..., 0] / sums_RK[..., 1]


def sums_interval(
    parts_BK: ArrayLike,
    statistic: Callable[[Floats], Floats],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a function of sums over groups, such as a ratio of two of them.

    Args:
        parts_BK: what each of B groups adds to K sums.
        statistic: (..., K) sums to (...) values.
        confidence, resamples, seed: as in `g2rl.formulas.estimators.bootstrap_interval`, which this
            equals where the statistic is a mean over groups.

    Returns:
        The statistic of all groups, and percentiles over resampled groups; width zero for one
        group.

    Raises:
        ValueError: no group, or numbers that are not finite.
    """
    parts = np.asarray(parts_BK, dtype=np.float64)
    if parts.ndim != 2 or len(parts) == 0 or not np.isfinite(parts).all():
        raise ValueError(f"parts must be (B, K), finite and not empty, got shape {parts.shape}")
    rng, count = np.random.default_rng(seed), len(parts)
    values = []
    step = max(1, _CELLS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        weights_RB = rng.multinomial(count, np.full(count, 1 / count), size=size)
        values.append(statistic(weights_RB @ parts))
    low, high = np.quantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(parts.sum(axis=0))), float(low), float(high))


def embeddings_PGE(
    encode: Callable[[Sequence[str]], Tensor], texts: Sequence[Sequence[str]]
) -> Tensor:
    """Unit embeddings of P groups of G texts (P, G, E); empty texts are zero rows."""
    flat = [text for group in texts for text in group]
    embedded_NE = encode(flat)
    return torch.as_tensor(embedded_NE).reshape(len(texts), -1, embedded_NE.shape[-1])
