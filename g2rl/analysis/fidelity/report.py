"""The summary of fidelity as markdown tables."""

from __future__ import annotations

from g2rl.analysis.fidelity.names import DISTINCT, TOTAL
from g2rl.analysis.fidelity.records import CorrelationRow, FidelitySummary, IntervalRecord
from g2rl.analysis.tables import interval_cell, page
from g2rl.formulas.pairs import PAIR_CLASSES
from g2rl.runs.terminal import Part

LABELS = {
    "phi": "Φ (gradient feature)",
    "hidden": "mean hidden state",
    "embedding": "external embedding",
    "ngram": "token n-gram overlap",
    "entropy": "entropy difference",
    "verdict": "same verdict",
}
"""Predictors as tables and figures call them."""


def cell(interval: IntervalRecord) -> str:
    """``0.512 [0.431, 0.590]``; a dash where nothing is defined."""
    return interval_cell(interval["value"], interval["low"], interval["high"])


def rows_of(
    summary: FidelitySummary, target: str = TOTAL, label: str = "all"
) -> dict[str, CorrelationRow]:
    """The correlations of one block and one class of pairs, by predictor."""
    rows: dict[str, CorrelationRow] = {}
    for row in summary["correlations"]:
        if row["target"] == target and row["class"] == label:
            rows[row["predictor"]] = row
    return rows


def markdown(summary: FidelitySummary, caption: str) -> str:
    """The tables of predictors, blocks and pair classes, and what else was found.

    Intervals are 95 % bootstrap intervals over problems.
    """
    return page(parts(summary, caption)) + "\n"


def parts(summary: FidelitySummary, caption: str) -> list[Part]:
    """The same as paragraphs and tables: tables first, then what fits into sentences."""
    return [
        caption,
        _predictor_rows(summary),
        _block_rows(summary),
        _class_rows(summary),
        _cosine_sentence(summary),
        _novelty_sentence(summary),
    ]


def _predictor_rows(summary: FidelitySummary) -> list[list[str]]:
    """Every predictor against the whole gradient, over all pairs."""
    # Phi has no gap to itself
    gap = {row["rival"]: row["spearman"] for row in summary["phi_minus_rival"]}
    headings = ["predictor", "Pearson", "Spearman", "Pearson in groups", "Spearman in groups"]
    rows = [[*headings, "Φ - it, Spearman"]]
    for name, row in rows_of(summary).items():
        rows.append(
            [
                LABELS[name],
                cell(row["pearson"]),
                cell(row["spearman"]),
                cell(row["pearson_within"]),
                cell(row["spearman_within"]),
                cell(gap[name]) if name in gap else "",
            ]
        )
    return rows


def _block_rows(summary: FidelitySummary) -> list[list[str]]:
    """Phi against the gradient of each block."""
    rows = [["block", "parameters", "share of squared norm", "Φ, Pearson", "Φ, Spearman"]]
    for name, block in summary["blocks"].items():
        phi = rows_of(summary, name)["phi"]
        size, share = f"{block['parameters']:,}", f"{block['gradient_share']:.1%}"
        rows.append([name, size, share, cell(phi["pearson"]), cell(phi["spearman"])])
    return rows


def _class_rows(summary: FidelitySummary) -> list[list[str]]:
    """Every predictor by class of pairs; the headings give the number of pairs."""
    # only classes that have a pair
    by_class = {}
    for label in (DISTINCT, *PAIR_CLASSES):
        rows_of_class = rows_of(summary, label=label)
        if rows_of_class:
            by_class[label] = rows_of_class

    # few pairs make wide intervals, so their number stands in the heading
    headings = ["predictor, Spearman by class"]
    for label, rows_of_class in by_class.items():
        headings.append(f"{label} ({rows_of_class['phi']['pairs']})")

    rows = [headings]
    for name in rows_of(summary):
        # the verdict is constant inside a class, and so undefined
        row = [LABELS[name]]
        for rows_of_class in by_class.values():
            known = name in rows_of_class
            row.append(cell(rows_of_class[name]["spearman"]) if known else "-")
        rows.append(row)
    return rows


def _cosine_sentence(summary: FidelitySummary) -> str:
    true, phi = summary["true_cosine"], summary["phi_cosine"]
    return (
        f"True cosine: mean {true['mean']:+.3f}, sd {true['sd']:.3f}, "
        f"{true['negative']:.0%} negative; "
        f"Φ cosine: mean {phi['mean']:+.3f}, sd {phi['sd']:.3f}, {phi['negative']:.0%} negative. "
        f"{summary['identical_pairs']} of {summary['pairs']} pairs are identical responses; "
        f"accuracy {summary['accuracy']:.3f}; {summary['zero_gradients']} zero gradients."
    )


def _novelty_sentence(summary: FidelitySummary) -> str:
    novelty = summary["novelty"]
    return (
        f"ν (Eq. 11) from Φ against ν from true gradients: Pearson {cell(novelty['pearson'])}, "
        f"Spearman {cell(novelty['spearman'])}, Spearman in groups "
        f"{cell(novelty['spearman_within'])}; means "
        f"{novelty['mean_phi']:.3f} and {novelty['mean_true']:.3f}."
    )
