"""Fidelity: how well Phi-space cosines predict the cosines of the responses' true gradients.

`measure` takes graded groups and a policy and gives one row a pair and one a response; `summarise`
turns the pairs into correlations with intervals; `markdown` writes them as tables. Drawing is in
`g2rl.analysis.fidelity.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from g2rl.analysis.fidelity.names import DISTINCT, TOTAL, TRUE
from g2rl.analysis.fidelity.predictors import predictors
from g2rl.analysis.fidelity.true_gradients import (
    gram_cosines,
    group_grams,
    parameter_blocks,
    sketch_error,
)
from g2rl.analysis.groups import GradedGroups
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.g2rl import novelty
from g2rl.formulas.correlation import KINDS, correlate, difference
from g2rl.formulas.estimators import Interval
from g2rl.formulas.pairs import PAIR_CLASSES
from g2rl.formulas.pairs import pair_table as pair_columns
from g2rl.policy.batching import Sequences
from g2rl.policy.policy import Policy

PREDICTORS = ("phi", "entropy", "hidden", "embedding", "ngram", "verdict")


@dataclass(slots=True)
class Measured:
    """What was measured of P groups of G responses."""

    pairs: pd.DataFrame
    """One row a pair i < j of a group: problem, first, second, pair (class), identical, predictors,
    and true/BLOCK, the true cosines."""
    responses: pd.DataFrame
    """One row a response: problem, sample, correct, tokens, entropy, nu_phi, nu_true,
    norm/BLOCK."""
    blocks: dict[str, int]
    """Number of parameters of each block."""


def measure(
    policy: Policy,
    groups: GradedGroups,
    *,
    temperature: float,
    feature_temperature: float | None = None,
    token_budget: int = 16_384,
    encoder: Encoder | None = None,
    blocks: Sequence[str] | None = None,
    projection: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Measured:
    """True gradients and every predictor of each pair of responses.

    Args:
        temperature: tau of the true gradients' log-probabilities; the sampling temperature, as in
            training.
        blocks: of parameters whose gradients are taken; None takes all.
        projection: cells of each block's sketch; None is exact. See
            `g2rl.analysis.fidelity.true_gradients`.
        seed: of the sketches.
        on_progress: told of n more responses whose gradient is done.
    """
    members = parameter_blocks(policy.model, blocks)
    count, size = groups.rollouts.shape
    sequences = groups.rollouts.sequences
    grams: dict[str, list[np.ndarray]] = {}
    for p in range(count):
        own = slice(p * size, (p + 1) * size)
        found = group_grams(
            policy,
            Sequences(sequences.prompts[own], sequences.responses[own]),
            members,
            temperature=temperature,
            projection=projection,
            seed=(seed, p),
        )
        for name, gram_GG in found.items():
            grams.setdefault(name, []).append(gram_GG)
        if on_progress:
            on_progress(size)
    stacked = {name: np.stack(values) for name, values in grams.items()}
    similarity, scores = predictors(
        policy,
        groups,
        temperature=temperature,
        feature_temperature=feature_temperature,
        token_budget=token_budget,
        encoder=encoder,
    )
    sizes = {name: sum(p.numel() for p in own) for name, own in members.items()}
    pairs = pair_table(groups, similarity, stacked)
    return Measured(
        pairs, response_table(groups, similarity["phi"], scores.mean_entropy_N, stacked), sizes
    )


def pair_table(
    groups: GradedGroups, similarity: Mapping[str, Tensor], grams: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """One row a pair i < j of a group: predictors and true cosines, (P, G, G) each."""
    columns = pair_columns(similarity["phi"], groups.correct_PG)
    ids = [problem.id for problem in groups.rollouts.problems]
    first, second = np.triu_indices(groups.rollouts.shape[1], k=1)
    frame = pd.DataFrame({name: columns[name] for name in ("problem", "first", "second", "pair")})
    tokens = [
        [completion.token_ids for completion in group] for group in groups.rollouts.completions
    ]
    frame["identical"] = [
        tokens[p][i] == tokens[p][j]
        for p, i, j in zip(frame["problem"], frame["first"], frame["second"], strict=True)
    ]
    frame["problem"] = [ids[p] for p in frame["problem"]]
    for name, values_PGG in similarity.items():
        frame[name] = values_PGG[:, first, second].double().flatten().numpy()
    for name, gram_PGG in grams.items():
        cosine_PGG = np.stack([gram_cosines(gram_GG) for gram_GG in gram_PGG])
        frame[TRUE + name] = cosine_PGG[:, first, second].ravel()
    return frame


def response_table(
    groups: GradedGroups, phi_PGG: Tensor, entropy_N: Tensor, grams: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """One row a response: verdict, length, entropy, gradient norms, nu (Eq. 11) from Phi and from
    truth."""
    count, size = groups.rollouts.shape
    reward_PG = groups.correct_PG.double() * 2 - 1
    true_PGG = torch.from_numpy(np.stack([gram_cosines(gram) for gram in grams[TOTAL]]))
    frame = pd.DataFrame(
        {
            "problem": [problem.id for problem in groups.rollouts.problems for _ in range(size)],
            "sample": list(range(size)) * count,
            "correct": groups.correct_PG.flatten().tolist(),
            "tokens": groups.rollouts.sequences.lengths_N.tolist(),
            "entropy": entropy_N.double().tolist(),
            "nu_phi": novelty(phi_PGG.double(), reward_PG, "squared").flatten().tolist(),
            "nu_true": novelty(true_PGG, reward_PG, "squared").flatten().tolist(),
        }
    )
    for name, gram_PGG in grams.items():
        frame[f"norm/{name}"] = np.sqrt(np.einsum("pgg->pg", gram_PGG)).ravel()
    return frame


def summarise(
    measured: Measured, *, projection: int | None, resamples: int, seed: int
) -> dict[str, Any]:
    """Correlations of each predictor with the true cosines: all pairs, by class, by block; and of
    nu.

    Returns:
        Plain data for a JSON file; intervals are [low, high], what is undefined is None.
    """
    pairs, responses = measured.pairs, measured.responses
    names = [name for name in PREDICTORS if name in pairs]
    rows = []
    for target in (TOTAL, *measured.blocks):
        rows += [_row(pairs, name, target, "all", resamples, seed) for name in names]
    for label, chosen in pair_subsets(pairs).items():
        usable = [
            name for name in names if name != "verdict" or label == DISTINCT
        ]  # constant in a class
        rows += [_row(chosen, name, TOTAL, label, resamples, seed) for name in usable]
    square = {f"norm/{name}": responses[f"norm/{name}"] ** 2 for name in (TOTAL, *measured.blocks)}
    share = {
        name: float((square[f"norm/{name}"].sum()) / square[f"norm/{TOTAL}"].sum())
        for name in measured.blocks
    }
    return {
        "pairs": len(pairs),
        "groups": int(pairs["problem"].nunique()),
        "identical_pairs": int(pairs["identical"].sum()),
        "zero_gradients": int((responses[f"norm/{TOTAL}"] == 0).sum()),
        "accuracy": float(responses["correct"].mean()),
        "true_cosine": _moments(pairs, TRUE + TOTAL),
        "phi_cosine": _moments(pairs, "phi"),
        "blocks": {
            n: {"parameters": k, "gradient_share": share[n]} for n, k in measured.blocks.items()
        },
        "projection": _projection_error(pairs[TRUE + TOTAL].to_numpy(), projection),
        "correlations": rows,
        "phi_minus_rival": _differences(pairs, names, resamples, seed),
        "novelty": _novelty(responses, resamples, seed),
    }


def pair_subsets(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The pairs of different token sequences, and those of each class; empty ones are left out."""
    found = {DISTINCT: pairs[~pairs["identical"]]}
    found |= {label: pairs[pairs["pair"] == label] for label in PAIR_CLASSES}
    return {label: chosen for label, chosen in found.items() if len(chosen)}


def _codes(frame: pd.DataFrame) -> np.ndarray:
    return pd.factorize(frame["problem"])[0]


def _row(
    pairs: pd.DataFrame, name: str, target: str, label: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Both correlations of one predictor with one block's cosines, over one class of pairs."""
    row: dict[str, Any] = {"target": target, "predictor": name, "class": label, "pairs": len(pairs)}
    x, y = pairs[name].to_numpy(), pairs[TRUE + target].to_numpy()
    for kind in KINDS:
        found = correlate(x, y, _codes(pairs), kind, resamples, seed)
        row[kind] = plain(found.pooled)
        row[f"{kind}_within"] = {**plain(found.within), "groups": found.groups}
        row[f"{kind}_undefined_resamples"] = found.undefined
    return row


def _differences(
    pairs: pd.DataFrame, names: Sequence[str], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Correlation of Phi less that of each rival, with paired intervals."""
    codes, y = _codes(pairs), pairs[TRUE + TOTAL].to_numpy()
    phi = pairs["phi"].to_numpy()
    return [
        {
            "rival": name,
            **{
                k: plain(difference(phi, pairs[name].to_numpy(), y, codes, k, resamples, seed))
                for k in KINDS
            },
        }
        for name in names
        if name != "phi"
    ]


def _novelty(responses: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Agreement of nu from Phi with nu from the true gradients, over responses."""
    x, y = responses["nu_phi"].to_numpy(), responses["nu_true"].to_numpy()
    found: dict[str, Any] = {"mean_phi": float(x.mean()), "mean_true": float(y.mean())}
    for kind in KINDS:
        both = correlate(x, y, _codes(responses), kind, resamples, seed)
        found[kind] = plain(both.pooled)
        found[f"{kind}_within"] = {**plain(both.within), "groups": both.groups}
    return found


def _moments(pairs: pd.DataFrame, name: str) -> dict[str, Any]:
    values = pairs[name]
    by_class = {label: float(part.mean()) for label, part in values.groupby(pairs["pair"])}
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=0)),
        "negative": float((values < 0).mean()),
        "mean_by_class": by_class,
    }


def _projection_error(cosine: np.ndarray, projection: int | None) -> dict[str, float] | None:
    """Standard error of the sketched cosines, and how much of their variance is not that error."""
    if projection is None:
        return None
    error = float(np.sqrt(np.mean(sketch_error(cosine, projection) ** 2)))
    variance = float(cosine.var())
    reliability = max(1 - error**2 / variance, 0.0) if variance > 0 else 0.0
    return {"cells": projection, "standard_error": error, "reliability": reliability}


def plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no NaN."""
    value, low, high = (None if np.isnan(v) else float(v) for v in interval)
    return {"value": value, "low": low, "high": high}
