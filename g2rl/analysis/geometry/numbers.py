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
from g2rl.formulas.feature_sums import identical_pairs, sum_products
from g2rl.formulas.pairs import ALL_PAIRS, SHOWN_CLASSES, pair_table, pair_values
from g2rl.formulas.tensors import cosine_matrix

COUNTED_METRICS = ("mean_cosine", "negative_ratio", "near_orthogonal_ratio")
"""Pair statistics that are a sum over pairs divided by their number."""
GROUP_METRICS = ("effective_rank", "participation_ratio", "vendi_score")
NUMBER_COLUMNS = ("pair", "metric", "value", "low", "high", "pairs", "problems")
"""Columns of `numbers`."""
_CELLS = 4_000_000  # elements of the largest array of a resampling loop


def pair_frame(
    features_PGD: Tensor,
    correct_PG: Tensor,
    lengths_PG: Tensor | None = None,
    first_PG: Tensor | None = None,
) -> pd.DataFrame:
    """One row a pair i < j of a group.

    Args:
        features_PGD: gradient features, or embeddings.
        correct_PG: verdicts.
        lengths_PG: numbers of tokens; given with gradient features, whose sums they make.
        first_PG: tells identical responses, see `g2rl.formulas.feature_sums.first_alike`.

    Returns:
        Columns problem (its number), first, second, cosine, pair (its class); with lengths, inner
        and size of `sum_products`; with `first_PG`, identical.
    """
    cosine_PGG, _ = cosine_matrix(features_PGD.double())
    frame = pd.DataFrame(pair_table(cosine_PGG, correct_PG))

    # of gradient features: what the zero-mean identity is about
    if lengths_PG is not None:
        sum_norms_PG = features_PGD.double().norm(dim=-1) * lengths_PG
        inner_PGG, squares_PGG = sum_products(sum_norms_PG, cosine_PGG)
        frame["inner"] = pair_values(inner_PGG).flatten().numpy()
        frame["size"] = pair_values(squares_PGG).flatten().numpy()
    if first_PG is not None:
        frame["identical"] = pair_values(identical_pairs(first_PG)).flatten().numpy()
    return frame


def group_frame(
    features_PGD: Tensor, correct_PG: Tensor, threshold: float = NEAR_ORTHOGONAL
) -> pd.DataFrame:
    """One row a group: problem (its number) and the numbers of `group_numbers`.

    Args:
        threshold: pairs with |cosine| below it are near-orthogonal.
    """
    # in float64, like the cosines of pairs
    rows = []
    for p, (features_GD, correct_G) in enumerate(zip(features_PGD, correct_PG, strict=True)):
        of_group = group_numbers(features_GD.double().numpy(), correct_G.numpy(), threshold)
        rows.append({"problem": p, **of_group})
    return pd.DataFrame(rows)


def numbers(
    pairs: pd.DataFrame, groups: pd.DataFrame, threshold: float = NEAR_ORTHOGONAL, bins: int = BINS
) -> pd.DataFrame:
    """Every number by pair class: columns pair, metric, value, low, high, pairs, problems.

    A class without a pair has no row. `problems` counts the groups that hold a pair of the class,
    and only they are resampled for it.

    Args:
        pairs: of `pair_frame`, or its columns problem, cosine, pair.
        groups: of `group_frame`; its numbers have the class "all".
        threshold: pairs with |cosine| below it are near-orthogonal.
        bins: of the histogram over [-1, 1] whose entropy is taken.
    """
    rows = []
    for name in SHOWN_CLASSES:
        of_class = pairs if name == ALL_PAIRS else pairs[pairs["pair"] == name]
        if of_class.empty:
            continue

        # how many pairs and problems are behind the numbers of this class
        counts = (len(of_class), of_class["problem"].nunique())
        intervals = _pair_intervals(of_class, threshold, bins) | _identity_intervals(of_class)
        for metric, interval in intervals.items():
            rows.append((name, metric, *interval, *counts))

    # group statistics are of all responses, whatever their verdicts
    for metric in GROUP_METRICS:
        interval = bootstrap_interval(groups[metric].to_numpy())
        rows.append((ALL_PAIRS, metric, *interval, len(pairs), len(groups)))
    return pd.DataFrame(rows, columns=list(NUMBER_COLUMNS))


def _pair_intervals(pairs: pd.DataFrame, threshold: float, bins: int) -> dict[str, Interval]:
    """Interval of each pair statistic, from sums over the groups."""
    sums = []
    for _, cosines in pairs.groupby("problem")["cosine"]:
        # what this group adds to each sum
        cosine_n = cosines.to_numpy()
        negative = (cosine_n < 0).sum()
        near_orthogonal = (np.abs(cosine_n) < threshold).sum()
        counts = (len(cosine_n), cosine_n.sum(), negative, near_orthogonal)
        sums.append([*counts, *histogram(cosine_n, bins)])
    parts_BK = np.array(sums, dtype=np.float64)

    # column 0 is the number of pairs, then come the sums of the metrics, then the histogram
    intervals: dict[str, Interval] = {}
    for column, metric in enumerate(COUNTED_METRICS, start=1):
        intervals[metric] = sums_interval(parts_BK[:, [column, 0]], _ratio)
    first_bin = 1 + len(COUNTED_METRICS)
    intervals["histogram_entropy"] = sums_interval(parts_BK[:, first_bin:], entropy)
    return intervals


def _identity_intervals(pairs: pd.DataFrame) -> dict[str, Interval]:
    """The identity ratio, the share of identical pairs, and cosines of different responses.

    Empty for pairs of which these columns are not known, such as those of embeddings.
    """
    intervals: dict[str, Interval] = {}
    if "size" in pairs:
        sums = pairs.groupby("problem")[["inner", "size"]].sum()
        sums = sums[sums["size"] > 0]
        if len(sums):
            intervals["identity_ratio"] = sums_interval(sums.to_numpy(), _ratio)
    if "identical" not in pairs:
        return intervals

    # shares of all pairs, and means over those of different responses
    ones = pairs.assign(one=1.0, negative=pairs["cosine"] < 0)
    sums = ones.groupby("problem")[["identical", "one"]].sum()
    intervals["identical_ratio"] = sums_interval(sums.to_numpy(dtype=float), _ratio)
    distinct = ones[~ones["identical"]]
    for metric, column in (("mean_cosine_distinct", "cosine"), ("negative_distinct", "negative")):
        if len(distinct):
            sums = distinct.groupby("problem")[[column, "one"]].sum()
            intervals[metric] = sums_interval(sums.to_numpy(dtype=float), _ratio)
    return intervals


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
    # a NaN would spread over all resamples
    parts = np.asarray(parts_BK, dtype=np.float64)
    if parts.ndim != 2 or len(parts) == 0 or not np.isfinite(parts).all():
        raise ValueError(f"parts must be (B, K), finite and not empty, got shape {parts.shape}")
    rng, group_count = np.random.default_rng(seed), len(parts)
    odds = np.full(group_count, 1 / group_count)

    # a resample is how often each group was drawn; many at a time, within _CELLS elements
    values = []
    step = max(1, _CELLS // group_count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        weights_RB = rng.multinomial(group_count, odds, size=size)
        values.append(statistic(weights_RB @ parts))

    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.concatenate(values), tails)
    return Interval(float(statistic(parts.sum(axis=0))), float(low), float(high))


def embeddings_PGE(
    encode: Callable[[Sequence[str]], Tensor], texts: Sequence[Sequence[str]]
) -> Tensor:
    """Unit embeddings of P groups of G texts (P, G, E); empty texts are zero rows."""
    # encoders take one list
    flat = [text for group in texts for text in group]
    embedded_NE = encode(flat)
    return torch.as_tensor(embedded_NE).reshape(len(texts), -1, embedded_NE.shape[-1])
