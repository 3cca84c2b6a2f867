"""The records of fidelity.json. Needs no torch, unlike what computes them."""

from __future__ import annotations

from typing import TypedDict


class IntervalRecord(TypedDict):
    """A value with its 95 % interval; None where it is undefined, since JSON has no NaN."""

    value: float | None
    low: float | None
    high: float | None


class WithinRecord(IntervalRecord):
    """A correlation inside each group, averaged over the groups in which it is defined."""

    groups: int
    """How many groups these are."""


class Correlations(TypedDict):
    """Both correlations of two quantities, over all pairs and inside the groups."""

    pearson: IntervalRecord
    pearson_within: WithinRecord
    spearman: IntervalRecord
    spearman_within: WithinRecord


_PairClass = TypedDict("_PairClass", {"class": str})  # a keyword of Python: no class can declare it


class CorrelationRow(Correlations, _PairClass):
    """Correlations of one predictor with one block's true cosines, over one class of pairs.

    "class" is "all", "distinct" or a class of pairs.
    """

    target: str
    """The block, or "all"."""
    predictor: str
    pairs: int
    pearson_undefined_resamples: int
    """Resamples in which a quantity is constant; they are left out of the interval."""
    spearman_undefined_resamples: int


class RivalRow(TypedDict):
    """Correlation of Phi with the true cosine minus that of a rival, on the same resamples."""

    rival: str
    pearson: IntervalRecord
    spearman: IntervalRecord


class NoveltySummary(Correlations):
    """Agreement over responses of nu (Eq. 11) from Phi with nu from the true gradients."""

    mean_phi: float
    mean_true: float


class Moments(TypedDict):
    """Distribution of one kind of cosines over all pairs."""

    mean: float
    sd: float
    negative: float
    """Share of negative cosines."""
    mean_by_class: dict[str, float]


class BlockSummary(TypedDict):
    """One block of parameters."""

    parameters: int
    gradient_share: float
    """Of the squared norm of the gradients."""


class ProjectionError(TypedDict):
    """How much the sketch blurs the true cosines."""

    cells: int
    standard_error: float
    """Upper bound, root mean square over pairs."""
    reliability: float
    """Share of the variance of the sketched cosines that is not this error, at least 0."""


class FidelitySummary(TypedDict):
    """Everything that was found, see `summarise`."""

    pairs: int
    groups: int
    identical_pairs: int
    zero_gradients: int
    accuracy: float
    true_cosine: Moments
    phi_cosine: Moments
    blocks: dict[str, BlockSummary]
    projection: ProjectionError | None
    correlations: list[CorrelationRow]
    phi_minus_rival: list[RivalRow]
    novelty: NoveltySummary


class StoredSummary(FidelitySummary):
    """fidelity.json: the summary, and how it was measured."""

    caption: str
    encoder: str | None
