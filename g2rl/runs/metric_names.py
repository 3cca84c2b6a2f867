"""The metrics to look at first: name, unit, meaning, and where each is drawn.

The W&B dashboard, its table of runs and docs/tracking.md show this one list; tests compare it with
what runs log. metrics.jsonl holds many more metrics than these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

SECTIONS = ("Learning", "Exploration geometry", "Optimisation health", "Evaluation", "System time")
"""The dashboard's sections, from top to bottom."""

WHEN = {
    "step": "every step",
    "eval": "every evaluation",
    "ends": "before and after training",
    "g2rl": "every step under exploration=g2rl",
    "evol": "every step under exploration=evol",
    "apart": "exploration=g2rl with forwards that are not kept for the update",
    "observe": "every step with exploration.observe=[g2rl]",
    "compared": "every step whose sampling was compared with scoring (`engine.drift_every`)",
    "reference": "every step with algorithm.kl_coef > 0",
}
"""When metrics are logged: a short name and the words of docs/tracking.md."""


@dataclass(frozen=True, slots=True)
class Curated:
    """A metric that the dashboard shows.

    Args:
        section: one of `SECTIONS`.
        panel: title of the panel that draws it; metrics of one panel share a unit.
        name: as in metrics.jsonl. It may hold {benchmark}, and {k} for the k of pass@k and maj@k;
            so may the panel.
        unit: of its values.
        meaning: one phrase.
        when: key of `WHEN`.
        summary: which values the table of runs shows, for example "max,last" as in
            wandb.define_metric; None shows the last one.
    """

    section: str
    panel: str
    name: str
    unit: str
    meaning: str
    when: str = "step"
    summary: str | None = None


_L, _G, _H, _E, _T = SECTIONS
CURATED = (
    # --- learning
    Curated(_L, "Training accuracy", "train/accuracy", "share", "sampled responses that are right"),
    Curated(
        _L, "Groups solved", "train/solved_any", "share", "groups with at least one right response"
    ),
    Curated(
        _L,
        "Token entropy",
        "train/entropy",
        "nats",
        "mean entropy of the policy over response tokens",
    ),
    Curated(_L, "Response length", "train/length", "tokens", "mean response length"),
    Curated(_L, "Truncated", "train/truncated", "share", "responses cut at the token limit"),
    Curated(_L, "Reward shift", "explore/reward_shift", "reward", "mean |shaped - base reward|"),
    # --- exploration geometry: gradients of the responses of a group
    # all pairs of a group; an observer measures the same under another signal
    Curated(
        _G,
        "Gradient cosine, all pairs",
        "explore/cosine",
        "cosine",
        "mean cosine of gradient features within a group",
        "g2rl",
    ),
    Curated(
        _G,
        "Gradient cosine, all pairs",
        "observe/g2rl/cosine",
        "cosine",
        "the same under another training signal",
        "observe",
    ),
    Curated(
        _G,
        "Negative pairs",
        "explore/negative_pairs",
        "share",
        "pairs with a negative cosine",
        "g2rl",
    ),
    Curated(
        _G,
        "Negative pairs",
        "observe/g2rl/negative_pairs",
        "share",
        "the same under another training signal",
        "observe",
    ),
    Curated(
        _G,
        "Gradient cosine, all pairs",
        "explore/cosine_distinct",
        "cosine",
        "mean cosine over pairs of different responses",
        "g2rl",
    ),
    Curated(
        _G,
        "Identity ratio",
        "explore/identity_ratio",
        "ratio",
        "mean inner product of summed features over pairs, relative to their mean square",
        "g2rl",
    ),
    Curated(
        _G,
        "Identity ratio",
        "observe/g2rl/identity_ratio",
        "ratio",
        "the same under another training signal",
        "observe",
    ),
    Curated(
        _G,
        "Identical pairs",
        "explore/identical_pairs",
        "share",
        "pairs of a group with the same tokens",
        "g2rl",
    ),
    Curated(
        _G,
        "Identical pairs",
        "observe/g2rl/identical_pairs",
        "share",
        "the same under another training signal",
        "observe",
    ),
    # pairs by class: their means differ, and tell more than the mean over all pairs
    Curated(
        _G,
        "Gradient cosine by pair class",
        "explore/cosine_correct_correct",
        "cosine",
        "mean cosine of two right responses; absent in a step without such a pair",
        "g2rl",
    ),
    Curated(
        _G,
        "Gradient cosine by pair class",
        "explore/cosine_correct_wrong",
        "cosine",
        "mean cosine of a right and a wrong response",
        "g2rl",
    ),
    Curated(
        _G,
        "Gradient cosine by pair class",
        "explore/cosine_wrong_wrong",
        "cosine",
        "mean cosine of two wrong responses",
        "g2rl",
    ),
    # what a signal makes of the geometry
    Curated(_G, "Novelty nu", "explore/nu_mean", "nu", "mean novelty, 0 to 1", "g2rl"),
    Curated(
        _G,
        "Novelty nu",
        "observe/g2rl/nu_mean",
        "nu",
        "the same under another training signal",
        "observe",
    ),
    Curated(
        _G,
        "Spread of nu",
        "explore/nu_spread",
        "nu",
        "max - min novelty in a group, mean over groups",
        "g2rl",
    ),
    Curated(
        _G,
        "EVOL-RL novelty",
        "explore/evol_novelty_mean",
        "u",
        "mean novelty among embeddings",
        "evol",
    ),
    # the same held-out problems at both ends of every run, so that signals can be compared
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine",
        "cosine",
        "mean cosine over all pairs on held-out problems, whatever the signal",
        "ends",
    ),
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine_correct_correct",
        "cosine",
        "mean cosine of two right responses; absent without such a pair",
        "ends",
    ),
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine_correct_wrong",
        "cosine",
        "mean cosine of a right and a wrong response",
        "ends",
    ),
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine_wrong_wrong",
        "cosine",
        "mean cosine of two wrong responses",
        "ends",
    ),
    Curated(
        _G,
        "Probe: negative pairs",
        "probe/negative_pairs",
        "share",
        "pairs with a negative cosine on held-out problems",
        "ends",
    ),
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine_distinct",
        "cosine",
        "mean cosine over pairs of different responses",
        "ends",
    ),
    Curated(
        _G,
        "Probe: identity ratio",
        "probe/identity_ratio",
        "ratio",
        "identity ratio on held-out problems; 0 expected at equal temperatures, untruncated",
        "ends",
    ),
    Curated(
        _G,
        "Probe: identical pairs",
        "probe/identical_pairs",
        "share",
        "pairs of held-out responses with the same tokens",
        "ends",
    ),
    # --- optimisation health: what goes wrong shows here first
    # the loss and what bounds it
    Curated(
        _H,
        "Loss",
        "update/loss",
        "loss",
        "policy loss with KL and entropy terms, mean over updates",
    ),
    Curated(_H, "KL to the reference", "update/kl", "nats", "mean estimate per token", "reference"),
    Curated(
        _H,
        "Sampling against scoring",
        "sample/drift",
        "share",
        "log-probs that responses were drawn from against those scored, of the tolerance",
        "compared",
    ),
    Curated(_H, "Clipped tokens", "update/clip_fraction", "share", "tokens whose ratio is clipped"),
    # the step of the optimizer
    Curated(
        _H,
        "Gradient norm",
        "update/grad_norm",
        "norm",
        "norm of the gradient before clipping, mean over updates",
        summary="max,last",
    ),
    Curated(_H, "Learning rate", "update/lr", "rate", "learning rate of the optimizer"),
    # scoring and update must agree before the first step
    Curated(
        _H,
        "First importance ratio",
        "update/first_ratio",
        "ratio",
        "of the first update; 1 unless scoring and update disagree; not logged "
        "when they share one forward pass",
        "apart",
    ),
    # groups from which nothing is learnt
    Curated(
        _H,
        "Groups without contrast",
        "advantage/uniform_correct",
        "share",
        "groups with only right responses",
    ),
    Curated(
        _H,
        "Groups without contrast",
        "advantage/uniform_wrong",
        "share",
        "groups with only wrong responses",
    ),
    Curated(
        _H,
        "Zero advantage",
        "advantage/zero_advantage",
        "share",
        "groups in which every advantage is zero",
    ),
    # what was thrown away
    Curated(
        _H,
        "Bad numbers",
        "update/skipped",
        "share",
        "updates skipped as not finite",
        summary="max,last",
    ),
    Curated(
        _H,
        "Bad numbers",
        "explore/nonfinite_groups",
        "share",
        "groups with a number that is not finite",
        summary="max,last",
    ),
    # what the grader could not judge
    Curated(
        _H,
        "Verdicts without an answer",
        "verify/unparsed",
        "share",
        "responses in which no answer is read",
    ),
    Curated(
        _H,
        "Verdicts without an answer",
        "verify/timeout",
        "share",
        "verdicts that timed out",
        summary="max,last",
    ),
    Curated(
        _H,
        "Verdicts without an answer",
        "verify/killed",
        "share",
        "verdicts that lost their worker",
        summary="max,last",
    ),
    # --- evaluation on held-out problems
    # accuracy; runs are ranked by it, so their table shows the best value too
    Curated(
        _E,
        "{benchmark} pass@1",
        "eval/{benchmark}/pass@1",
        "share",
        "accuracy of one sample",
        "eval",
        "max,last",
    ),
    Curated(
        _E,
        "{benchmark} pass@{k}",
        "eval/{benchmark}/pass@{k}",
        "share",
        "problems solved by one of k samples, unbiased; evaluations during "
        "training report only k up to trainer.eval_samples",
        "ends",
        "max,last",
    ),
    Curated(
        _E,
        "{benchmark} maj@{k}",
        "eval/{benchmark}/maj@{k}",
        "share",
        "accuracy of the most frequent of k answers; evaluations during "
        "training report only k up to trainer.eval_samples",
        "ends",
        "max,last",
    ),
    # what the samples look like
    Curated(
        _E,
        "{benchmark} distinct right answers",
        "eval/{benchmark}/distinct",
        "answers",
        "different right answers a problem",
        "eval",
    ),
    Curated(
        _E,
        "{benchmark} length",
        "eval/{benchmark}/length",
        "tokens",
        "mean response length",
        "eval",
    ),
    Curated(
        _E,
        "{benchmark} truncated",
        "eval/{benchmark}/truncated",
        "share",
        "responses cut at the token limit",
        "eval",
    ),
    # --- system time
    Curated(
        _T,
        "Step",
        "time/step",
        "seconds",
        "one training step without its evaluation",
        summary="mean,last",
    ),
    Curated(_T, "Evaluation", "time/evaluate", "seconds", "one evaluation", "eval"),
    # the stages of a step in their order
    Curated(_T, "Parts of a step", "time/sample", "seconds", "sampling"),
    Curated(_T, "Parts of a step", "time/score", "seconds", "scoring, reference policy included"),
    Curated(
        _T, "Parts of a step", "time/grade_wait", "seconds", "waiting for verdicts after scoring"
    ),
    Curated(_T, "Parts of a step", "time/explore", "seconds", "signal, observers and advantage"),
    Curated(_T, "Parts of a step", "time/update", "seconds", "forward, backward and optimizer"),
    Curated(_T, "Parts of a step", "time/write", "seconds", "rollouts/ and geometry/"),
)


def filled(text: str, benchmarks: Mapping[str, Sequence[int]]) -> list[str]:
    """All names or titles that a text stands for.

    Args:
        text: may hold {benchmark} and {k}.
        benchmarks: ks by name of the benchmark.

    Returns:
        The text with each benchmark and each of its ks over 1 filled in. pass@1 has an entry of its
        own, and maj@1 is the same number.
    """
    if "{" not in text:
        return [text]

    # one name a benchmark, or one a benchmark and k
    names: list[str] = []
    for benchmark, ks in benchmarks.items():
        of_benchmark = text.replace("{benchmark}", benchmark)
        if "{k}" not in text:
            names.append(of_benchmark)
            continue
        for k in ks:
            if k > 1:
                names.append(of_benchmark.replace("{k}", str(k)))
    return names


@cache
def _name_pattern(template: str) -> re.Pattern[str]:
    """Matches every name that a curated name stands for."""
    pattern = re.escape(template)
    pattern = pattern.replace(r"\{benchmark\}", "[^/]+")
    pattern = pattern.replace(r"\{k\}", r"\d+")
    return re.compile(pattern)


def summary_of(name: str) -> str | None:
    """The `Curated.summary` of a metric by its full name; None for a metric that has none."""
    # few have a summary of their own, and every metric is looked up once a run
    for metric in CURATED:
        if metric.summary is not None and _name_pattern(metric.name).fullmatch(name):
            return metric.summary
    return None


def meaning_of(name: str) -> str | None:
    """What a metric by its full name means, in one phrase; None for one that is not curated."""
    for metric in CURATED:
        if _name_pattern(metric.name).fullmatch(name):
            return metric.meaning
    return None


def final_score(row: Mapping[str, float]) -> float | None:
    """The score of the weights after a step: held-out pass@1, mean over benchmarks.

    Args:
        row: of metrics.jsonl.

    Returns:
        None if nothing was evaluated at that step.
    """
    # one score a benchmark
    scores: list[float] = []
    for name, value in row.items():
        if re.fullmatch(r"eval/.+/pass@1", name):
            scores.append(float(value))

    # a row without an evaluation has no score
    if not scores:
        return None
    return sum(scores) / len(scores)
