"""The geometry of a policy's responses over a grid of temperatures, as data frames.

A *cell* is one sampling and one scoring temperature. Each sampled set is drawn once and scored at
every scoring temperature; sets at different sampling temperatures use common random numbers. The
mean cosine depends on both and on truncation (docs/method.md, "The zero-mean identity"), so every
row names the temperatures of its cell.
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
    NUMBER_COLUMNS,
    embeddings_PGE,
    group_frame,
    numbers,
    pair_frame,
)
from g2rl.analysis.geometry.records import GRADIENT, SEMANTIC
from g2rl.analysis.geometry.strategies import style_of
from g2rl.analysis.groups import GradedGroups
from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.evaluation.estimates import answer_classes
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.formulas.correlation import KINDS, correlate
from g2rl.formulas.pairs import ALL_PAIRS
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.runs.tables import rollout_table
from g2rl.tasks.grading.grader import Grader

SCORED_TOGETHER = 8  # problems: only the steps of the progress bar


@dataclass(slots=True)
class Geometry:
    """Tables of every cell, one below the other.

    `scored_at` is NaN in the rows of embeddings, which know no scoring temperature.
    """

    pairs: list[pd.DataFrame] = field(default_factory=list)
    groups: list[pd.DataFrame] = field(default_factory=list)
    responses: list[pd.DataFrame] = field(default_factory=list)
    numbers: list[pd.DataFrame] = field(default_factory=list)

    def tables(self) -> dict[str, pd.DataFrame]:
        """pairs, groups, responses, numbers."""
        return {
            "pairs": pd.concat(self.pairs, ignore_index=True),
            "groups": pd.concat(self.groups, ignore_index=True),
            "responses": pd.concat(self.responses, ignore_index=True),
            "numbers": pd.concat(self.numbers, ignore_index=True),
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
    # entropies belong to the distribution that was sampled from
    request = ScoreRequest(
        temperature=sampled_at,
        token_budget=token_budget,
        features=True,
        feature_temperature=scored_at,
    )
    features: list[Tensor] = []
    entropies: list[Tensor] = []
    for start in range(0, len(rollouts.problems), SCORED_TOGETHER):
        # a few problems at a time, so that the progress bar moves
        some = slice(start, start + SCORED_TOGETHER)
        some_rollouts = Rollouts(
            rollouts.problems[some], rollouts.prompts[some], rollouts.completions[some]
        )
        scores = score(policy, some_rollouts.sequences, request)
        assert scores.features_ND is not None
        features.append(scores.features_ND)
        entropies.append(scores.mean_entropy_N)
        if on_progress is not None:
            on_progress(len(some_rollouts.flat))

    features_PGD = grouped(torch.cat(features), rollouts.shape)
    entropy_PG = grouped(torch.cat(entropies), rollouts.shape)
    return features_PGD, entropy_PG


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
    """Append one sampled set: a cell for each scoring temperature, and its embeddings.

    Args:
        classes: equivalence class of each answer, see `classes_of`.
        scored_at: scoring temperatures; None is the sampling temperature.
        threshold: pairs with |cosine| below it are near-orthogonal.
        encoder: of the semantic side; None leaves it out.
        phase: shows progress, see `g2rl.evaluation.console`.
    """
    # texts are embedded once for all scoring temperatures
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

    # the semantic numbers too belong to the set, not to one of its cells
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
        features_PGD: gradient features with p_t at `scored_at`.
        entropy_PG: mean token entropies at `sampled_at`.
        classes: equivalence class of each answer, see `classes_of`.
        threshold: pairs with |cosine| below it are near-orthogonal.
        embedded_PGE: an encoder's embeddings; adds the column `semantic` to the pairs, and their
            correlation.
    """
    # cosines of gradient features: pairs, groups and their numbers
    temperatures = {"sampled_at": sampled_at, "scored_at": scored_at}
    rollouts = groups.rollouts
    lengths_PG = grouped(rollouts.sequences.lengths_N, rollouts.shape)
    pairs = pair_frame(features_PGD, groups.correct_PG, lengths_PG, rollouts.first_alike_PG)
    of_groups = group_frame(features_PGD, groups.correct_PG, threshold)
    cell_numbers = numbers(pairs, of_groups, threshold)

    # the semantic cosine of the same pairs
    if embedded_PGE is not None:
        pairs["semantic"] = pair_frame(embedded_PGE, groups.correct_PG)["cosine"]
        cell_numbers = pd.concat([cell_numbers, correlations(pairs)], ignore_index=True)

    # what each response is like
    responses = response_frame(groups, features_PGD, entropy_PG, classes)

    # every row names its problem and its temperatures
    ids = problem_ids(groups)
    geometry.pairs.append(with_ids(pairs.assign(**temperatures), ids))
    geometry.groups.append(with_ids(of_groups.assign(space=GRADIENT, **temperatures), ids))
    geometry.numbers.append(cell_numbers.assign(space=GRADIENT, **temperatures))
    geometry.responses.append(responses.assign(**temperatures))


def response_frame(
    groups: GradedGroups,
    features_PGD: Tensor,
    entropy_PG: Tensor,
    classes: Sequence[Sequence[int]],
) -> pd.DataFrame:
    """One row a response: the columns of a run's rollouts file, and what was measured of it."""
    # the columns that training writes of a response
    verdicts = [verdict for group in groups.verdicts for verdict in group]
    frame = pd.DataFrame(rollout_table(groups.rollouts, verdicts))

    # for distinct solutions and strategies
    frame["answer_class"] = [label for group in classes for label in group]
    frame["style"] = [style_of(text) for text in frame["completion"]]

    # what scoring measured
    frame["entropy"] = entropy_PG.flatten().tolist()
    frame["feature_norm"] = features_PGD.norm(dim=-1).flatten().tolist()
    return frame


def add_semantic(
    geometry: Geometry,
    groups: GradedGroups,
    embedded_PGE: Tensor,
    *,
    sampled_at: float,
    threshold: float,
) -> None:
    """Append the numbers of the embeddings of one sampled set."""
    # embeddings of the texts do not depend on a scoring temperature
    place = {"space": SEMANTIC, "sampled_at": sampled_at, "scored_at": float("nan")}
    pairs = pair_frame(embedded_PGE, groups.correct_PG)
    of_groups = group_frame(embedded_PGE, groups.correct_PG, threshold)
    geometry.groups.append(with_ids(of_groups.assign(**place), problem_ids(groups)))
    geometry.numbers.append(numbers(pairs, of_groups, threshold).assign(**place))


def correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pearson and Spearman correlation of semantic with gradient cosine over all pairs.

    Returns:
        Rows like those of `numbers`; NaN where one of the two is the same for every pair.
    """
    # resampled by problem, like every other number
    semantic, gradient = pairs["semantic"].to_numpy(), pairs["cosine"].to_numpy()
    problem = pairs["problem"].to_numpy()
    counts = (len(pairs), pairs["problem"].nunique())
    rows = []
    for kind in KINDS:
        interval = correlate(semantic, gradient, problem, kind).pooled
        rows.append((ALL_PAIRS, f"semantic_{kind}", *interval, *counts))
    return pd.DataFrame(rows, columns=list(NUMBER_COLUMNS))


def problem_ids(groups: GradedGroups) -> np.ndarray:
    """Id of each problem, (P,)."""
    return np.array([problem.id for problem in groups.rollouts.problems])


def with_ids(frame: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    """The frame with the problem's id instead of its number."""
    return frame.assign(problem=ids[frame["problem"].to_numpy()])


def embed(encoder: Encoder, groups: GradedGroups) -> Tensor:
    """Embeddings of every response (P, G, E)."""
    # one call for all texts: encoders work in batches
    texts = [[completion.text for completion in group] for group in groups.rollouts.completions]
    return embeddings_PGE(encoder.encode, texts)


def classes_of(groups: GradedGroups, grader: Grader) -> list[list[int]]:
    """Equivalence classes of the answers of each problem, see `answer_classes`."""
    return [answer_classes(group, grader) for group in groups.verdicts]


def scoring_temperatures(sampled_at: float, scored_at: Iterable[float | None]) -> list[float]:
    """The scoring temperatures of one sampled set, each once, in the order given.

    None stands for the sampling temperature.
    """
    # several settings may come to the same temperature
    temperatures = [sampled_at if value is None else float(value) for value in scored_at]
    return list(dict.fromkeys(temperatures))
