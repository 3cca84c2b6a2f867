"""The sections of a page about one run: results, learning, geometry, alarms, metrics, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from g2rl.analysis.captions import probe_caption, probe_identity, sampled_and_scored
from g2rl.analysis.figures.one_run import held_out_curves
from g2rl.analysis.palette import CURVE_COLOURS, PAIR_COLOURS
from g2rl.analysis.report.drawings import (
    Drawing,
    Line,
    Measured,
    ends_drawing,
    histogram_drawing,
    lines_drawing,
)
from g2rl.analysis.report.facts import RunFacts
from g2rl.analysis.tables import NOTHING, interval_cell
from g2rl.formulas.pairs import ALL_PAIRS, SHOWN_CLASSES, metric_suffix
from g2rl.runs.layout import RunFolder
from g2rl.runs.metric_names import meaning_of

ALL_COLOUR = CURVE_COLOURS[3]
"""Of lines over all pairs; the classes have colours of their own."""

TRAINING = (
    (
        "Training accuracy",
        "share",
        True,
        (("train/accuracy", "responses right"), ("train/solved_any", "groups solved")),
    ),
    ("Response length", "tokens", False, (("train/length", ""),)),
    ("Token entropy", "nats", False, (("train/entropy", ""),)),
    ("KL to the reference policy", "nats a token", False, (("update/kl", ""),)),
    (
        "Groups that teach nothing",
        "share of groups",
        True,
        (("advantage/uniform_correct", "all right"), ("advantage/uniform_wrong", "all wrong")),
    ),
    ("Gradient norm", "norm", False, (("update/grad_norm", ""),)),
)
"""Figures of training: title, unit, whether values are shares, and metrics with their labels."""


@dataclass(slots=True, frozen=True)
class Tile:
    """One number at the head of a page."""

    label: str
    value: str
    note: str = ""
    interval: str = ""


@dataclass(slots=True, frozen=True)
class Section:
    """A part of the page: figures, tables and what is said about them."""

    id: str
    title: str
    intro: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    table: Sequence[Sequence[str]] = field(default=())


def measured_ends(facts: RunFacts, metric: str) -> tuple[str, str, str]:
    """Cells of a metric before and after training, with intervals, and their difference."""
    # a metric without an interval is shown alone, one that is missing as a dash
    values: list[float] = []
    cells: list[str] = []
    for row in (facts.before, facts.after):
        value = row.get(metric)
        cells.append(interval_cell(value, row.get(f"{metric}_low"), row.get(f"{metric}_high")))
        values.append(math.nan if value is None else value)
    return cells[0], cells[1], interval_cell(values[1] - values[0], None, None, "+.3f")


def accuracies(facts: RunFacts, benchmark: str) -> list[str]:
    """Held-out metrics of a benchmark that have an interval, but mean@n, which is pass@1."""
    # what has an interval is an accuracy
    prefix = f"eval/{benchmark}/"
    names: list[str] = []
    for metric in facts.before:
        is_accuracy = metric.startswith(prefix) and f"{metric}_low" in facts.before
        if is_accuracy and "/mean@" not in metric:
            names.append(metric)
    return names


def results(facts: RunFacts) -> Section:
    """Held-out problems before and after training."""
    # what an interval is known of, then the rest
    rows = [["", "before", "after", "difference"]]
    drawings: list[Drawing] = []
    for benchmark in facts.benchmarks:
        names = accuracies(facts, benchmark)
        for quantity in ("distinct", "length", "truncated"):
            names.append(f"eval/{benchmark}/{quantity}")
        for metric in names:
            if metric in facts.before or metric in facts.after:
                rows.append([metric.removeprefix("eval/"), *measured_ends(facts, metric)])

        # both ends of a run have the same accuracies, unless it was interrupted
        shared = [name for name in accuracies(facts, benchmark) if name in facts.after]
        if shared:
            drawings.append(_ends_of(facts, benchmark, shared))

    intro = [
        "Held-out problems, which the policy was not trained on. In brackets: 95 % bootstrap "
        "intervals over problems. They say how much the value would change with other problems of "
        "the same kind, not with another seed."
    ]
    if not facts.finished:
        intro.append("This run has not finished: “after” is its last step so far.")
    return Section("results", "Before and after training", intro, drawings, rows)


def _ends_of(facts: RunFacts, benchmark: str, names: Sequence[str]) -> Drawing:
    """Accuracies of one benchmark before and after."""
    measured: list[Measured] = []
    for metric in names:
        ends: list[tuple[float, float, float]] = []
        for row in (facts.before, facts.after):
            ends.append((row[metric], row[f"{metric}_low"], row[f"{metric}_high"]))
        measured.append(Measured(metric.rsplit("/", 1)[-1], *ends))
    return ends_drawing(
        f"Accuracy on held-out {benchmark}",
        "share of problems",
        measured,
        "bars: 95 % bootstrap intervals over problems",
    )


def learning(facts: RunFacts) -> Section:
    """Curves of held-out and training metrics over the steps."""
    # held-out problems first: they are what counts
    drawings = [_held_out(facts, benchmark) for benchmark in facts.benchmarks]
    for title, unit, share, metrics in TRAINING:
        lines = _lines(facts, metrics)
        if lines:
            drawings.append(lines_drawing(title, unit, lines, share=share))
    return Section(
        "learning",
        "Learning",
        ["Every training step, and every evaluation on held-out problems."],
        drawings,
    )


def _held_out(facts: RunFacts, benchmark: str) -> Drawing:
    """Accuracies of one benchmark over the steps, each with its interval."""
    lines: list[Line] = []
    curves = held_out_curves(facts.before, [benchmark]).items()
    for place, (metric, label) in enumerate(curves):
        steps, values = facts.curve(metric)

        # every accuracy comes with both ends of its interval
        lines.append(
            Line(
                label,
                CURVE_COLOURS[place % len(CURVE_COLOURS)],
                steps,
                values,
                facts.curve(f"{metric}_low")[1],
                facts.curve(f"{metric}_high")[1],
            )
        )
    return lines_drawing(
        f"Held-out {benchmark}",
        "share of problems",
        lines,
        share=True,
        caption="bands: 95 % bootstrap intervals over problems",
    )


def _lines(facts: RunFacts, metrics: Sequence[tuple[str, str]]) -> list[Line]:
    """The lines of those metrics that the run has logged, with their labels."""
    lines: list[Line] = []
    for place, (metric, label) in enumerate(metrics):
        steps, values = facts.curve(metric)
        if steps:
            lines.append(Line(label, CURVE_COLOURS[place], steps, values))
    return lines


# geometry


def geometry(facts: RunFacts) -> Section:
    """What novelty and the cosines of gradient features did over training."""
    intro = [
        "A response pushes the policy along its gradient feature Φ. The cosines are those of the "
        "features of two responses to one prompt; the novelty ν of a response is what the other "
        "responses of its group, weighted by their rewards, do not explain."
    ]
    if facts.of_features("cosine") is None:
        intro.append(
            "This run measured no gradient features in training: train with "
            "exploration.observe=[g2rl] to see them under any signal."
        )
        return Section("geometry", "Novelty and geometry", intro, _probes(facts))

    drawings = [*_novelty(facts), *_cosines(facts), *_identity(facts), *_probes(facts)]
    return Section("geometry", "Novelty and geometry", intro, drawings)


def training_caption(facts: RunFacts) -> str:
    """How training responses were sampled, and at which temperature their features were taken."""
    task, exploration = facts.config["task"], facts.config["exploration"]
    return sampled_and_scored(
        task["temperature"],
        task["top_p"],
        task["top_k"],
        exploration.get("feature_temperature"),
    )


def _novelty(facts: RunFacts) -> list[Drawing]:
    """Novelty, and how far the signal moved the rewards."""
    # novelty itself
    drawings: list[Drawing] = []
    named = []
    for quantity, label in (("nu_mean", "mean"), ("nu_spread", "max − min of a group")):
        metric = facts.of_features(quantity)
        if metric is not None:
            named.append((metric, label))
    if named:
        lines = _lines(facts, named)
        drawings.append(lines_drawing("Novelty ν", "ν", lines, share=True))

    # and what it does to the rewards
    shift = _lines(facts, (("explore/reward_shift", ""),))
    if shift:
        caption = "mean |shaped − base reward|"
        drawings.append(lines_drawing("Reward shift", "reward", shift, caption=caption))
    return drawings


def _cosines(facts: RunFacts) -> list[Drawing]:
    """Mean cosine and share of negative pairs, over all pairs and by class."""
    drawings: list[Drawing] = []
    for quantity, title, unit, level in (
        ("cosine", "Mean gradient cosine", "cosine", 0.0),
        ("negative_pairs", "Negative pairs", "share of pairs", 0.5),
    ):
        lines: list[Line] = []
        for pair_class in SHOWN_CLASSES:
            # a class that never had a pair has no metric
            metric = facts.of_features(f"{quantity}{metric_suffix(pair_class)}")
            if metric is None:
                continue
            colour = PAIR_COLOURS.get(pair_class, ALL_COLOUR)
            label = "all pairs" if pair_class == ALL_PAIRS else pair_class
            lines.append(Line(label, colour, *facts.curve(metric)))
        if lines:
            caption = training_caption(facts)
            drawings.append(lines_drawing(title, unit, lines, level=level, caption=caption))
    return drawings


def _identity(facts: RunFacts) -> list[Drawing]:
    """The identity ratio, which theory expects at zero, and the share of identical pairs."""
    named = []
    for quantity, label in (
        ("identity_ratio", "identity ratio"),
        ("identical_pairs", "identical pairs"),
    ):
        metric = facts.of_features(quantity)
        if metric is not None:
            named.append((metric, label))
    lines = _lines(facts, named)
    if not lines:
        return []
    caption = (
        "identity ratio: mean inner product of summed features relative to their mean square; "
        "about 0 at equal temperatures without truncation"
    )
    title = "Identity ratio and identical pairs"
    return [lines_drawing(title, "ratio, share", lines, level=0.0, caption=caption)]


def _probes(facts: RunFacts) -> list[Drawing]:
    """Distributions of cosines on held-out problems, before and after training."""
    # the first probe and the last one, which are one file if the run was stopped early
    files = list(RunFolder(facts.folder).table_files("probe").items())
    rows_by_step = {int(row["step"]): row for row in facts.rows}
    drawings: list[Drawing] = []
    for step, path in dict(files[:1] + files[-1:]).items():
        # the metrics of the same step say how it was sampled
        row = rows_by_step.get(step, {})
        if "probe/cosine" not in row:
            continue

        # the cosines of every class
        pairs = pd.read_parquet(path, columns=["cosine", "pair"])
        values = []
        for pair_class, colour in PAIR_COLOURS.items():
            cosines = pairs.loc[pairs["pair"] == pair_class, "cosine"].to_numpy()
            values.append((pair_class, colour, cosines))

        # with all that they depend on
        time = "before training" if step == 0 else f"after step {step}"
        texts = [text for text in (probe_caption(row), probe_identity(row)) if text]
        title = f"Held-out cosines {time}"
        drawings.append(histogram_drawing(title, values, "; ".join(texts)))
    return drawings


# tables


def tiles(facts: RunFacts, alarm_count: int) -> list[Tile]:
    """The numbers at the head of the page."""
    shown: list[Tile] = []
    for benchmark in facts.benchmarks:
        before, after, difference = measured_ends(facts, f"eval/{benchmark}/pass@1")
        value, _, interval = after.partition(" ")
        note = f"after training; {before} before, difference {difference}"
        shown.append(Tile(f"{benchmark} pass@1", value, note, interval))

    # the geometry of held-out responses
    if "probe/cosine" in facts.after:
        before, after, _ = measured_ends(facts, "probe/cosine")
        note = f"held-out, all pairs; {before} before"
        shown.append(Tile("gradient cosine", after, note))
    alarms = "none" if alarm_count == 0 else str(alarm_count)
    shown.append(Tile("alarms", alarms, "during training"))
    return shown


def metric_rows(facts: RunFacts) -> list[list[str]]:
    """Every metric with its meaning, first, last, least and largest value; the headings first."""
    # a metric that is not curated has no meaning written down
    rows = [["metric", "meaning", "rows", "first", "last", "least", "largest"]]
    for metric in facts.metrics():
        _, values = facts.curve(metric)
        numbers = (values[0], values[-1], min(values), max(values))
        meaning = meaning_of(metric) or ""
        rows.append([metric, meaning, str(len(values)), *(f"{one:.4g}" for one in numbers)])
    return rows


def alarm_rows(raised: Sequence[tuple[int, str, str]]) -> list[list[str]]:
    """Alarms as cells: the step at which each held first, its name, and what to do."""
    rows = [["step", "alarm", "what it says"]]
    for step, name, message in raised:
        rows.append([str(step), name, message])
    return rows


def about(facts: RunFacts) -> list[tuple[str, str]]:
    """What was run, in names and values."""
    # the time of what was done, also if the run was interrupted and continued
    trainer = facts.config["trainer"]
    seconds = sum(facts.curve("time/step")[1]) + sum(facts.curve("time/evaluate")[1])
    return [
        ("model", name_of(facts.config["model"])),
        ("task", name_of(facts.config["task"])),
        ("signal", signal_of(facts)),
        ("seed", str(facts.config["seed"])),
        (
            "steps",
            f"{facts.steps} of {trainer['steps']}, each of {trainer['prompts_per_step']} prompts × "
            f"{trainer['group_size']} responses",
        ),
        ("time", f"{duration(seconds)} of steps and evaluations"),
        ("folder", str(facts.folder)),
    ]


def name_of(node: Mapping[str, object]) -> str:
    """What a node of the configuration is called: its name, or the class that it builds."""
    name = node.get("name")
    if isinstance(name, str):
        return name
    # g2rl.exploration.evol.Evol is evol
    target = str(node.get("_target_", NOTHING))
    return target.rsplit(".", 2)[-2] if target.count(".") >= 2 else target


def signal_of(facts: RunFacts) -> str:
    """The name of the training signal: the module of its class."""
    return name_of({"_target_": facts.config["exploration"].get("_target_", NOTHING)})


def duration(seconds: float) -> str:
    """``1 h 4 min``, ``5 min 3 s`` or ``12 s``."""
    # the two largest units say enough
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s"
