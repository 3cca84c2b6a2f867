"""The geometry of a policy's responses over a grid of sampling and scoring temperatures, as data
frames.

A *cell* is one sampling and one scoring temperature. Each sampled set is drawn once and scored at
every scoring temperature; sets at different sampling temperatures use common random numbers. The
mean cosine depends on both and on truncation (docs/method.md, "The zero-mean identity"): every row
says where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from g2rl.analysis.geometry.numbers import (
    ALL,
    GRADIENT,
    SEMANTIC,
    embeddings_PGE,
    group_frame,
    numbers,
    pair_frame,
)
from g2rl.analysis.geometry.strategies import style_of
from g2rl.analysis.groups import GradedGroups
from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.evaluation.estimates import answer_classes
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.formulas.correlation import correlate
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, Scores, score
from g2rl.runs.tables import rollout_table
from g2rl.tasks.grading.grader import Grader

SCORED_TOGETHER = 8  # problems: only the steps of the progress bar


@dataclass(slots=True)
class Geometry:
    """Tables of every cell, one below the other; `scored_at` is NaN where it does not matter
    (semantic)."""

    pairs: list[pd.DataFrame] = field(default_factory=list)
    groups: list[pd.DataFrame] = field(default_factory=list)
    responses: list[pd.DataFrame] = field(default_factory=list)
    numbers: list[pd.DataFrame] = field(default_factory=list)

    def tables(self) -> dict[str, pd.DataFrame]:
        """pairs, groups, responses, numbers."""
        return {
            name: pd.concat(getattr(self, name), ignore_index=True)
            for name in ("pairs", "groups", "responses", "numbers")
        }


def score_groups(
    policy: Policy,
    rollouts: Rollouts,
    *,
    sampled_at: float,
    scored_at: float,
    token_budget: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient features (P, G, D) with p_t at `scored_at`; mean token entropies (P, G) at
    `sampled_at`."""
    features: list[Tensor] = []
    entropies: list[Tensor] = []
    for start in range(0, len(rollouts.problems), SCORED_TOGETHER):
        stop = start + SCORED_TOGETHER
        part = Rollouts(
            rollouts.problems[start:stop],
            rollouts.prompts[start:stop],
            rollouts.completions[start:stop],
        )
        scores: Scores = score(
            policy,
            part.sequences,
            ScoreRequest(
                temperature=sampled_at,
                token_budget=token_budget,
                features=True,
                feature_temperature=scored_at,
            ),
        )
        assert scores.features_ND is not None
        features.append(scores.features_ND)
        entropies.append(scores.mean_entropy_N)
        if on_progress is not None:
            on_progress(len(part.flat))
    return grouped(torch.cat(features), rollouts.shape), grouped(
        torch.cat(entropies), rollouts.shape
    )


def add_set(
    geometry: Geometry,
    policy: Policy,
    groups: GradedGroups,
    classes: Sequence[Sequence[int]],
    *,
    sampled_at: float,
    scored_at: Sequence[float | None],
    threshold: float,
    token_budget: int,
    encoder: Encoder | None,
    phase: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
) -> None:
    """Append one sampled set: a cell for each scoring temperature (None: its own), and its
    embeddings.

    Args:
        classes: equivalence class of each answer, see `classes_of`.
        threshold: of near-orthogonal pairs.
        phase: shows progress, see `g2rl.evaluation.console`.
    """
    embedded_PGE = None if encoder is None else embed(encoder, groups)
    for temperature in scoring_temperatures(sampled_at, scored_at):
        with phase(f"scoring at {temperature:g}", len(groups.rollouts.flat)) as advance:
            features_PGD, entropy_PG = score_groups(
                policy,
                groups.rollouts,
                sampled_at=sampled_at,
                scored_at=temperature,
                token_budget=token_budget,
                on_progress=advance,
            )
        add_cell(
            geometry,
            groups,
            features_PGD,
            entropy_PG,
            classes,
            sampled_at=sampled_at,
            scored_at=temperature,
            threshold=threshold,
            embedded_PGE=embedded_PGE,
        )
    if embedded_PGE is not None:
        add_semantic(geometry, groups, embedded_PGE, sampled_at=sampled_at, threshold=threshold)


def add_cell(
    geometry: Geometry,
    groups: GradedGroups,
    features_PGD: Tensor,
    entropy_PG: Tensor,
    classes: Sequence[Sequence[int]],
    *,
    sampled_at: float,
    scored_at: float,
    threshold: float,
    embedded_PGE: Tensor | None = None,
) -> None:
    """Append the tables of one cell.

    Args:
        classes: equivalence class of each answer, see `answer_classes`.
        threshold: of near-orthogonal pairs.
        embedded_PGE: an encoder's embeddings; adds the column `semantic` to the pairs, and their
            correlation.
    """
    at = {"sampled_at": sampled_at, "scored_at": scored_at}
    names = np.array([problem.id for problem in groups.rollouts.problems])
    pairs = pair_frame(features_PGD, groups.correct_PG)
    each = group_frame(features_PGD, groups.correct_PG, threshold)
    found = numbers(pairs, each, threshold)
    if embedded_PGE is not None:
        pairs["semantic"] = pair_frame(embedded_PGE, groups.correct_PG)["cosine"]
        found = pd.concat([found, correlations(pairs)], ignore_index=True)
    geometry.pairs.append(named(pairs.assign(**at), names))
    geometry.groups.append(named(each.assign(space=GRADIENT, **at), names))
    geometry.numbers.append(found.assign(space=GRADIENT, **at))
    table = pd.DataFrame(
        rollout_table(groups.rollouts, [v for group in groups.verdicts for v in group])
    )
    table["answer_class"] = [label for group in classes for label in group]
    table["style"] = [style_of(text) for text in table["completion"]]
    table["entropy"] = entropy_PG.flatten().tolist()
    table["feature_norm"] = features_PGD.norm(dim=-1).flatten().tolist()
    geometry.responses.append(table.assign(**at))


def add_semantic(
    geometry: Geometry,
    groups: GradedGroups,
    embedded_PGE: Tensor,
    *,
    sampled_at: float,
    threshold: float,
) -> None:
    """Append the numbers of the embeddings of one sampled set."""
    at = {"space": SEMANTIC, "sampled_at": sampled_at, "scored_at": float("nan")}
    names = np.array([problem.id for problem in groups.rollouts.problems])
    each = group_frame(embedded_PGE, groups.correct_PG, threshold)
    found = numbers(pair_frame(embedded_PGE, groups.correct_PG), each, threshold)
    geometry.groups.append(named(each.assign(**at), names))
    geometry.numbers.append(found.assign(**at))


def correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pearson and Spearman correlation of semantic with gradient cosine over all pairs, as rows of
    `numbers`.

    NaN where one of the two is the same for every pair.
    """
    rows = []
    for kind in ("pearson", "spearman"):
        x, y, place = (pairs[name].to_numpy() for name in ("semantic", "cosine", "problem"))
        value, low, high = correlate(x, y, place, kind).pooled
        rows.append(
            (ALL, f"semantic_{kind}", value, low, high, len(pairs), pairs["problem"].nunique())
        )
    return pd.DataFrame(
        rows, columns=["pair", "metric", "value", "low", "high", "pairs", "problems"]
    )


def named(frame: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    """The frame with the problem's id instead of its number."""
    return frame.assign(problem=names[frame["problem"].to_numpy()])


def embed(encoder: Encoder, groups: GradedGroups) -> Tensor:
    """Embeddings of every response (P, G, E)."""
    texts = [[completion.text for completion in group] for group in groups.rollouts.completions]
    return embeddings_PGE(encoder.encode, texts)


def classes_of(groups: GradedGroups, grader: Grader) -> list[list[int]]:
    """Equivalence classes of the answers of each problem."""
    return [answer_classes(group, grader) for group in groups.verdicts]


def scoring_temperatures(sampled_at: float, scored_at: Iterable[float | None]) -> list[float]:
    """The scoring temperatures of one sampled set: None is its own, each once, in the order
    given."""
    return list(dict.fromkeys(sampled_at if value is None else float(value) for value in scored_at))
