"""What stands in the tables of analyses and comparisons, column by column. Needs no torch."""

from __future__ import annotations

from g2rl.runs.columns import ROLLOUTS, Column, FileSchema

# --- what several tables share

PROBLEM = Column("problem", "text", "id of the problem")
FIRST = Column("first", "int", "place of one response in its group, from 0")
SECOND = Column("second", "int", "place of the other one, above `first`")
PAIR_CLASS = Column("pair", "text", "correct-correct, correct-wrong or wrong-wrong")
IDENTICAL = Column("identical", "bool", "whether both have the same tokens")
ENTROPY = Column("entropy", "float", "mean entropy over the response's tokens", "nats")
SAMPLED_AT = Column("sampled_at", "float", "temperature of sampling", "temperature")
SCORED_AT = Column(
    "scored_at",
    "float",
    "temperature of p_t in Φ",
    "temperature",
    nullable="the row is of embeddings, which know none",
)
ARM = Column("arm", "text", "label of the arm: the settings in which it differs")
SEED = Column("seed", "int", "the run's seed")

# --- g2rl analyze geometry

GEOMETRY_FOLDER = "geometry-*"
GEOMETRY_PAIRS = FileSchema(
    f"{GEOMETRY_FOLDER}/pairs.parquet",
    "g2rl analyze geometry",
    "a pair of responses to one problem, at one pair of temperatures",
    (
        PROBLEM,
        FIRST,
        SECOND,
        Column("cosine", "float", "of their gradient features Φ", "cosine"),
        PAIR_CLASS,
        Column("inner", "float", "⟨ΣΦ_i, ΣΦ_j⟩, inner product of the features summed over tokens"),
        Column("size", "float", "½(‖ΣΦ_i‖² + ‖ΣΦ_j‖²)"),
        IDENTICAL,
        Column("semantic", "float", "cosine of their embeddings", "cosine", when="embed=true"),
        SAMPLED_AT,
        SCORED_AT,
    ),
)
GEOMETRY_GROUPS = FileSchema(
    f"{GEOMETRY_FOLDER}/groups.parquet",
    "g2rl analyze geometry",
    "the responses to one problem, at one pair of temperatures, in one space",
    (
        PROBLEM,
        Column("responses", "int", "responses to it", "responses"),
        Column("correct", "int", "right ones", "responses"),
        Column("zero_features", "int", "vectors that are zero", "responses"),
        Column("mean_cosine", "float", "mean over pairs", "cosine"),
        Column("negative_ratio", "float", "pairs with a negative cosine", "share"),
        Column("near_orthogonal_ratio", "float", "pairs with |cos| < near_orthogonal", "share"),
        Column("effective_rank", "float", "exp of the entropy of σ²/Σσ²", "dimensions"),
        Column("participation_ratio", "float", "(Σσ²)²/Σσ⁴", "dimensions"),
        Column("vendi_score", "float", "exp of the entropy of eigenvalues of S/G", "responses"),
        Column("space", "text", "gradient or semantic"),
        SAMPLED_AT,
        SCORED_AT,
    ),
)
GEOMETRY_RESPONSES = FileSchema(
    f"{GEOMETRY_FOLDER}/responses.parquet",
    "g2rl analyze geometry",
    "one response, at one pair of temperatures",
    (
        # as a run writes its responses
        *ROLLOUTS.columns,
        # what is added here
        Column("answer_class", "int", "equivalent answers of a problem have one number"),
        Column("style", "text", "strategy on Countdown: direct, calc, back, try; else other"),
        ENTROPY,
        Column("feature_norm", "float", "length of Φ, a mean over tokens"),
        SAMPLED_AT,
        SCORED_AT,
    ),
)

# --- g2rl analyze fidelity

FIDELITY_FOLDER = "fidelity-*"
BLOCK = "a block of parameters: all, embedding, layer.0, ..., head"
FIDELITY_PAIRS = FileSchema(
    f"{FIDELITY_FOLDER}/pairs.parquet",
    "g2rl analyze fidelity",
    "a pair of responses to one problem",
    (
        PROBLEM,
        FIRST,
        SECOND,
        PAIR_CLASS,
        IDENTICAL,
        # predictors
        Column("phi", "float", "cosine of gradient features", "cosine"),
        Column("entropy", "float", "minus the difference of mean entropies", "nats"),
        Column("hidden", "float", "cosine of mean hidden states", "cosine"),
        Column("embedding", "float", "cosine of embeddings", "cosine", when="embed=true"),
        Column("ngram", "float", "overlap of token n-grams, n = 1 to 3", "share"),
        Column("verdict", "float", "1 if both are right or both wrong, else 0"),
        # what they are to predict
        Column("true/{block}", "float", f"cosine of the true gradients of {BLOCK}", "cosine"),
    ),
)
FIDELITY_RESPONSES = FileSchema(
    f"{FIDELITY_FOLDER}/responses.parquet",
    "g2rl analyze fidelity",
    "one response",
    (
        PROBLEM,
        Column("sample", "int", "place of the response in its group, from 0"),
        Column("correct", "bool", "the verdict"),
        Column("tokens", "int", "length of the response", "tokens"),
        ENTROPY,
        Column("nu_phi", "float", "novelty of Eq. 11 from cosines of Φ"),
        Column("nu_true", "float", "the same from cosines of the true gradients"),
        Column("norm/{block}", "float", f"length of the true gradient of {BLOCK}"),
    ),
)

# --- several runs

RUNS = FileSchema(
    "runs.parquet",
    "g2rl analyze compare",
    "one metric of one step of one run",
    (
        ARM,
        SEED,
        Column("run", "text", "folder of the run"),
        Column("step", "int", "the training step", "steps"),
        Column("metric", "text", "as in metrics.jsonl; geometry/... is read from geometry/"),
        Column("value", "float", "its value", "that of the metric"),
    ),
)
CONTRASTS = FileSchema(
    "contrasts.parquet",
    "g2rl analyze compare",
    "one metric of one arm against another, paired by seed (of several arms)",
    (
        ARM,
        Column("against", "text", "label of the arm that is subtracted"),
        Column("metric", "text", "as in metrics.jsonl"),
        Column("seeds", "int", "seeds that both arms have", "seeds"),
        Column("difference", "float", "mean over these seeds", "that of the metric"),
        Column("low", "float", "lower end of its 95 % t-interval", "the same"),
        Column("high", "float", "upper end", "the same"),
        Column("p", "float", "of the paired t-test alone"),
        Column("p_adjusted", "float", "over the family (Holm)", nullable="not in the family"),
        Column("family", "int", "contrasts in the family; 0 outside it", "contrasts"),
        Column(
            "detectable",
            "float",
            "true difference that would have been found with probability 0.8",
            "that of the metric",
            nullable="fewer than two seeds; so are low, high and p",
        ),
    ),
)
SWEEP = FileSchema(
    "sweep.parquet",
    "g2rl train --multirun",
    "one metric of one run; a run that did not finish has one row without metric",
    (
        ARM,
        Column(
            "{setting}",
            "any",
            "a setting that the sweep varies, by its full name; numbers if all its values are",
        ),
        SEED,
        Column("status", "text", "finished, failed, interrupted or missing"),
        Column("folder", "text", "of the run"),
        Column("metric", "text", "as in metrics.jsonl", nullable="the run has not finished"),
        Column(
            "before",
            "float",
            "value before training",
            "that of the metric",
            nullable="it was not measured then",
        ),
        Column("after", "float", "value after the last step", "that of the metric"),
    ),
)

# --- stored rows of a bake-off

BENCH_ROWS = FileSchema(
    "rows/TASK.jsonl",
    "g2rl bench run",
    "one run, in one line",
    (
        # what it was
        Column("task", "text", "name of the task"),
        Column("arm", "text", "name of the arm"),
        Column("rate", "text", "learning rate, as the plan writes it"),
        SEED,
        Column("overrides", "texts", "settings that were typed", shape="(settings,)"),
        Column("protocol", "text", "fingerprint of everything that arms share"),
        Column("command", "text", "that makes the run again"),
        Column("config_sha256", "text", "fingerprint of the settings that decide its result"),
        # what it took
        Column("cpu_seconds", "float", "processor time of training and evaluation", "seconds"),
        Column("machine", "text", "processor, version of torch, threads"),
        # what was measured
        Column(
            "curve",
            "objects",
            "step, samples, pass@k, distinct, length; the same of the hard subset as hard/...; "
            "train/accuracy and train/entropy",
            shape="(evaluations,)",
        ),
    ),
)

ANALYSIS_FILES = (
    GEOMETRY_PAIRS,
    GEOMETRY_GROUPS,
    GEOMETRY_RESPONSES,
    FIDELITY_PAIRS,
    FIDELITY_RESPONSES,
    RUNS,
    CONTRASTS,
    SWEEP,
    BENCH_ROWS,
)
"""Every kind of file that an analysis, a comparison, a sweep or a bake-off writes."""
