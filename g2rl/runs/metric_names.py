"""The metrics that a dashboard shows: name, unit, meaning, and where each is drawn.

One list for the W&B dashboard, its table of runs and docs/tracking.md. metrics.jsonl has everything
else as well; this is what to look at first. Tests compare the list with what runs log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECTIONS = ("Learning", "Exploration geometry", "Optimisation health", "Evaluation", "System time")
WHEN = {
    "step": "every step",
    "eval": "every evaluation",
    "ends": "before and after training",
    "g2rl": "every step under exploration=g2rl",
    "evol": "every step under exploration=evol",
    "apart": "exploration=g2rl with forwards that are not kept for the update",
    "observe": "every step with exploration.observe=[g2rl]",
    "reference": "every step with algorithm.kl_coef > 0",
}


@dataclass(frozen=True, slots=True)
class Curated:
    """One metric.

    Args:
        panel: title of the panel that draws it; metrics of one panel share a unit.
        name: as in metrics.jsonl; may hold {benchmark}, and {k} for the k of pass@k and maj@k.
        unit: of its values.
        meaning: one phrase.
        when: key of `WHEN`.
        summary: what of its course a table of runs shows, as in wandb.define_metric; None: the last
            value.
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
        "of a right and a wrong one",
        "g2rl",
    ),
    Curated(
        _G,
        "Gradient cosine by pair class",
        "explore/cosine_wrong_wrong",
        "cosine",
        "of two wrong ones",
        "g2rl",
    ),
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
        "of two right responses; absent without such a pair",
        "ends",
    ),
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine_correct_wrong",
        "cosine",
        "of a right and a wrong one",
        "ends",
    ),
    Curated(
        _G,
        "Probe: gradient cosine",
        "probe/cosine_wrong_wrong",
        "cosine",
        "of two wrong ones",
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
        _H,
        "Loss",
        "update/loss",
        "loss",
        "policy loss with KL and entropy terms, mean over updates",
    ),
    Curated(
        _H, "KL to the reference", "update/kl", "nats", "estimate per token, mean", "reference"
    ),
    Curated(_H, "Clipped tokens", "update/clip_fraction", "share", "tokens whose ratio is clipped"),
    Curated(
        _H,
        "Gradient norm",
        "update/grad_norm",
        "norm",
        "before clipping, mean over updates",
        summary="max,last",
    ),
    Curated(_H, "Learning rate", "update/lr", "rate", "of the optimizer"),
    Curated(
        _H,
        "First importance ratio",
        "update/first_ratio",
        "ratio",
        "of the first update; 1 unless scoring and update disagree; absent where one forward serves both",
        "apart",
    ),
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
        "groups with no advantage but zero",
    ),
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
        "problems solved by one of k samples, unbiased; in between for k <= trainer.eval_samples",
        "ends",
        "max,last",
    ),
    Curated(
        _E,
        "{benchmark} maj@{k}",
        "eval/{benchmark}/maj@{k}",
        "share",
        "accuracy of the most frequent of k answers; in between likewise",
        "ends",
        "max,last",
    ),
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
    Curated(
        _T,
        "Step",
        "time/step",
        "seconds",
        "one training step without its evaluation",
        summary="mean,last",
    ),
    Curated(_T, "Evaluation", "time/evaluate", "seconds", "one evaluation", "eval"),
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
    """A name or title with {benchmark} and {k} filled in: for each benchmark and each of its ks
    over 1."""
    if "{" not in text:
        return [text]
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


def curated_names(benchmarks: Mapping[str, Sequence[int]]) -> list[str]:
    """Every curated name of runs with these benchmarks (name to ks)."""
    return [name for metric in CURATED for name in filled(metric.name, benchmarks)]


_SUMMARIES = [
    (
        re.compile(re.escape(m.name).replace(r"\{benchmark\}", "[^/]+").replace(r"\{k\}", r"\d+")),
        m.summary,
    )
    for m in CURATED
    if m.summary
]


def summary_of(name: str) -> str | None:
    """What of a metric's course its summary keeps, e.g. "max,last"; None for the last value
    alone."""
    return next((summary for pattern, summary in _SUMMARIES if pattern.fullmatch(name)), None)


def final_score(row: Mapping[str, float]) -> float | None:
    """Held-out pass@1 of a row of metrics, mean over its benchmarks; None if nothing was
    evaluated."""
    values = [float(value) for name, value in row.items() if re.fullmatch(r"eval/.+/pass@1", name)]
    return sum(values) / len(values) if values else None
