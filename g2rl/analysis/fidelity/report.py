"""What fidelity found, as markdown tables and as one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g2rl.analysis.fidelity.names import DISTINCT, TOTAL
from g2rl.formulas.pairs import PAIR_CLASSES

LABELS = {
    "phi": "Φ (gradient feature)",
    "hidden": "mean hidden state",
    "embedding": "external embedding",
    "ngram": "token n-gram overlap",
    "entropy": "entropy difference",
    "verdict": "same verdict",
}


def cell(interval: Mapping[str, Any]) -> str:
    """``0.512 [0.431, 0.590]``; a dash where nothing is defined."""
    if interval["value"] is None:
        return "-"
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def rows_of(
    summary: Mapping[str, Any], target: str = TOTAL, label: str = "all"
) -> dict[str, dict[str, Any]]:
    """The correlations of one block and one class of pairs, by predictor."""
    chosen = (r for r in summary["correlations"] if r["target"] == target and r["class"] == label)
    return {row["predictor"]: row for row in chosen}


def markdown(summary: Mapping[str, Any], caption: str) -> str:
    """The tables: predictors, blocks, pair classes; intervals are 95 % bootstrap intervals over
    problems."""
    found = rows_of(summary)
    gap = {row["rival"]: row["spearman"] for row in summary["phi_minus_rival"]}
    lines = [caption, ""]
    lines += _head(
        [
            "predictor",
            "Pearson",
            "Spearman",
            "Pearson in groups",
            "Spearman in groups",
            "Φ - it, Spearman",
        ]
    )
    for name, row in found.items():
        values = [row["pearson"], row["spearman"], row["pearson_within"], row["spearman_within"]]
        lines.append(
            _line([LABELS[name], *map(cell, values), cell(gap[name]) if name in gap else ""])
        )
    lines += [
        "",
        *_head(["block", "parameters", "share of squared norm", "Φ, Pearson", "Φ, Spearman"]),
    ]
    for name, block in summary["blocks"].items():
        row = rows_of(summary, name)["phi"]
        share = f"{block['gradient_share']:.1%}"
        lines.append(
            _line(
                [
                    name,
                    f"{block['parameters']:,}",
                    share,
                    cell(row["pearson"]),
                    cell(row["spearman"]),
                ]
            )
        )
    classes = [label for label in (DISTINCT, *PAIR_CLASSES) if rows_of(summary, label=label)]
    lines += [
        "",
        *_head(
            ["predictor, Spearman by class", *(_with_count(summary, label) for label in classes)]
        ),
    ]
    for name in found:
        rows = [rows_of(summary, label=label).get(name) for label in classes]
        lines.append(
            _line([LABELS[name], *(cell(row["spearman"]) if row else "-" for row in rows)])
        )
    true, phi, novelty = summary["true_cosine"], summary["phi_cosine"], summary["novelty"]
    lines += [
        "",
        f"True cosine: mean {true['mean']:+.3f}, sd {true['sd']:.3f}, {true['negative']:.0%} negative; "
        f"Φ cosine: mean {phi['mean']:+.3f}, sd {phi['sd']:.3f}, {phi['negative']:.0%} negative. "
        f"{summary['identical_pairs']} of {summary['pairs']} pairs are identical responses; accuracy "
        f"{summary['accuracy']:.3f}; {summary['zero_gradients']} zero gradients.",
        "",
        f"ν (Eq. 11) from Φ against ν from true gradients: Pearson {cell(novelty['pearson'])}, Spearman "
        f"{cell(novelty['spearman'])}, Spearman in groups {cell(novelty['spearman_within'])}; means "
        f"{novelty['mean_phi']:.3f} and {novelty['mean_true']:.3f}.",
    ]
    return "\n".join(lines) + "\n"


def _with_count(summary: Mapping[str, Any], label: str) -> str:
    return f"{label} ({rows_of(summary, label=label)['phi']['pairs']})"


def _head(names: list[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
