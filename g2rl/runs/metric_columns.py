"""The keys of metrics.jsonl: the metrics to look at first, and all others. Imports no torch."""

from __future__ import annotations

from g2rl.runs.columns import Column, FileSchema
from g2rl.runs.metric_names import CURATED, WHEN

EVERY_STEP = WHEN["step"]
EVALUATION = WHEN["eval"]
ENDS = WHEN["ends"]
FEATURES = "every step with exploration=g2rl"
PARTITION = "every step with exploration=darling, poly_epo or uniqueness"
DYNAMIC = "every step with algorithm.sampling_rounds above 1"
STAGES = (
    *("sample", "train", "explore", "observe", "advantage", "update"),
    *("verify", "eval", "probe", "time"),
)
"""First words of metrics, in the order of a step."""
SAMPLER = "every step, if the engine reports log-probabilities (vLLM)"


def metric(name: str, unit: str, meaning: str, when: str) -> Column:
    """A key of metrics.jsonl; every value is one number."""
    return Column(name, "float", meaning, unit, when=when)


def under(signal: str) -> str:
    """When a metric of a signal is logged."""
    return f"every step with exploration={signal}"


def stage_of(column: Column) -> int:
    """Sorts metrics by the stage that returns them, in the order of a step."""
    return STAGES.index(column.name.partition("/")[0])


def curated() -> list[Column]:
    """The metrics of `g2rl.runs.metric_names` as columns."""
    return [metric(one.name, one.unit, one.meaning, WHEN[one.when]) for one in CURATED]


OTHERS = (
    # sampling
    metric("sample/drift_largest", "nats", "largest difference behind sample/drift", "as it"),
    metric("sample/drift_mean", "nats", "mean difference behind sample/drift", "as it"),
    metric("sample/rounds", "rounds", "rounds of sampling that the step took", DYNAMIC),
    metric("sample/prompts", "prompts", "prompts that were sampled", DYNAMIC),
    metric("sample/mixed", "share", "of them with right and wrong responses", DYNAMIC),
    metric("sample/filled_up", "share", "groups of the batch that are not mixed", DYNAMIC),
    metric("sample/accuracy", "share", "right responses before groups were replaced", DYNAMIC),
    # the batch
    metric("train/reward", "reward", "mean reward of the verifier", EVERY_STEP),
    metric("train/length_max", "tokens", "longest response", EVERY_STEP),
    metric("train/truncated_groups", "share", "groups with truncated responses only", EVERY_STEP),
    metric("train/empty", "share", "responses without a visible character", EVERY_STEP),
    # signals
    metric("explore/flat_groups", "share", "groups in which novelty is equal", FEATURES),
    metric("explore/zero_features", "share", "responses whose Φ is zero", FEATURES),
    metric("explore/feature_norm", "norm", "mean length of Φ", FEATURES),
    metric("explore/negative_pairs_{class}", "share", "negative pairs of one class", FEATURES),
    metric("explore/evol_zero_embeddings", "responses", "empty embeddings", under("evol")),
    metric("explore/clusters", "clusters", "mean number in a group", PARTITION),
    metric("explore/largest_cluster", "share", "mean share of a group's largest", PARTITION),
    metric("explore/set_score", "reward", "mean score of sets of responses", under("poly_epo")),
    metric("explore/omega", "weight", "weight of the bonus, which falls", under("cde")),
    metric("explore/outcomes", "answers", "different answers in a group", under("outcome")),
    metric("explore/revisited", "share", "problems that were seen before", under("outcome")),
    metric("explore/outcomes_known", "answers", "different answers so far", under("outcome")),
    metric("explore/passk", "share", "estimate of pass@k on the training groups", under("passk")),
    metric("explore/elliptical_bonus", "bonus", "mean bonus", under("repexp")),
    metric(
        "explore/{signal}/{quantity}", "", "of one of several signals", "exploration=[..., ...]"
    ),
    metric(
        "observe/{signal}/{quantity}",
        "",
        "what an observer measures, as explore/{quantity}",
        "every step with exploration.observe=[SIGNAL]",
    ),
    metric("observe/{signal}/failed", "", "1 in a step that it could not measure", "such a step"),
    # advantages and update
    metric("advantage/abs_mean", "advantage", "mean size of an advantage", EVERY_STEP),
    metric(
        "advantage/overlong",
        "reward",
        "mean loss for length",
        "every step with algorithm.overlong_buffer",
    ),
    metric("update/policy_loss", "loss", "loss without KL and entropy terms", EVERY_STEP),
    metric("update/ratio", "ratio", "mean importance ratio of a token", EVERY_STEP),
    metric("update/entropy", "nats", "mean token entropy during the update", EVERY_STEP),
    metric("update/updates", "updates", "optimizer steps since the run began", EVERY_STEP),
    metric("update/sampler_ratio", "ratio", "mean π_old / q of a token, q the sampler", SAMPLER),
    metric("update/sampler_kl", "nats", "estimate of KL(q || π_old) per token", SAMPLER),
    metric("update/sampler_capped", "share", "tokens whose weight left its bounds", SAMPLER),
    metric(
        "update/anchor", "nats", "anchored penalty per token", "signals that anchor tokens (kl_cov)"
    ),
    metric("update/clip_cov_candidates", "share", "tokens in the bounds", under("clip_cov")),
    metric("update/clip_cov_left_out", "share", "tokens without gradient", under("clip_cov")),
    metric("update/kl_cov_anchored", "share", "tokens with a penalty", under("kl_cov")),
    metric("update/kl_cov_smallest", "", "least covariance among them", under("kl_cov")),
    metric("update/forking_kept", "share", "tokens that are learnt from", under("forking_tokens")),
    metric("update/forking_entropy", "nats", "least entropy of them", under("forking_tokens")),
    metric(
        "update/entropy_advantage", "advantage", "mean shift of a token", under("entropy_advantage")
    ),
    metric(
        "explore/entropy_controlled",
        "nats",
        "entropy that the controller saw",
        under("entropy_controller"),
    ),
    metric("explore/entropy_coefficient", "", "of the entropy bonus", under("entropy_controller")),
    # verdicts
    metric("verify/total", "verdicts", "verdicts of the step", EVERY_STEP),
    metric("verify/error", "share", "verdicts that ended in an error of the grader", EVERY_STEP),
    # evaluation
    metric("eval/{benchmark}/mean@{k}", "share", "pass@1 of at least k samples", EVALUATION),
    metric(
        "eval/{benchmark}/{metric}_low",
        "as {metric}",
        "lower end of its 95 % bootstrap interval over problems",
        "beside pass@k and maj@k",
    ),
    metric("eval/{benchmark}/{metric}_high", "as {metric}", "upper end", "beside pass@k and maj@k"),
    metric("eval/{benchmark}/verify/{quantity}", "", "as verify/{quantity}", EVALUATION),
    metric("probe/negative_pairs_{class}", "share", "negative pairs of one class", ENDS),
    metric("probe/sampled_at", "temperature", "of the probed responses", ENDS),
    metric("probe/scored_at", "temperature", "of p_t in Φ", ENDS),
    metric("probe/top_p", "share", "nucleus that was sampled from; 1: all", ENDS),
    metric("probe/top_k", "tokens", "that were sampled from; 0: all", ENDS),
)
"""Metrics of g2rl that are not curated; a signal of your own adds its own as explore/QUANTITY."""

METRICS = FileSchema(
    "metrics.jsonl",
    "g2rl train",
    "one step; step 0 is the evaluation before training",
    (
        Column("step", "int", "the training step", "steps"),
        *sorted([*curated(), *OTHERS], key=stage_of),
    ),
)
"""Keys are there in the rows of which `when` speaks."""
