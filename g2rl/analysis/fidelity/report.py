"""What fidelity found, as markdown tables and as one figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.fidelity.names import DISTINCT, TOTAL, TRUE
from g2rl.analysis.figures.one_run import PAIR_COLOURS, plt, save_figure
from g2rl.formulas.pairs import PAIR_CLASSES

LABELS = {
    "phi": "Φ (gradient feature)",
    "hidden": "mean hidden state",
    "embedding": "external embedding",
    "ngram": "token n-gram overlap",
    "entropy": "entropy difference",
    "verdict": "same verdict",
}
PHI, RIVAL = "#D55E00", "#0072B2"  # Okabe-Ito: the feature, and everything it is compared with


def cell(interval: Mapping[str, Any]) -> str:
    """``0.512 [0.431, 0.590]``; a dash where nothing is defined."""
    if interval["value"] is None:
        return "-"
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def rows_of(summary: Mapping[str, Any], target: str = TOTAL, label: str = "all") -> dict[str, dict[str, Any]]:
    """The correlations of one block and one class of pairs, by predictor."""
    chosen = (r for r in summary["correlations"] if r["target"] == target and r["class"] == label)
    return {row["predictor"]: row for row in chosen}


def markdown(summary: Mapping[str, Any], caption: str) -> str:
    """The tables: predictors, blocks, pair classes; intervals are 95 % bootstrap intervals over problems."""
    found = rows_of(summary)
    gap = {row["rival"]: row["spearman"] for row in summary["phi_minus_rival"]}
    lines = [caption, ""]
    lines += _head(
        ["predictor", "Pearson", "Spearman", "Pearson in groups", "Spearman in groups", "Φ - it, Spearman"]
    )
    for name, row in found.items():
        values = [row["pearson"], row["spearman"], row["pearson_within"], row["spearman_within"]]
        lines.append(_line([LABELS[name], *map(cell, values), cell(gap[name]) if name in gap else ""]))
    lines += ["", *_head(["block", "parameters", "share of squared norm", "Φ, Pearson", "Φ, Spearman"])]
    for name, block in summary["blocks"].items():
        row = rows_of(summary, name)["phi"]
        share = f"{block['gradient_share']:.1%}"
        lines.append(
            _line([name, f"{block['parameters']:,}", share, cell(row["pearson"]), cell(row["spearman"])])
        )
    classes = [label for label in (DISTINCT, *PAIR_CLASSES) if rows_of(summary, label=label)]
    lines += [
        "",
        *_head(["predictor, Spearman by class", *(_with_count(summary, label) for label in classes)]),
    ]
    for name in found:
        rows = [rows_of(summary, label=label).get(name) for label in classes]
        lines.append(_line([LABELS[name], *(cell(row["spearman"]) if row else "-" for row in rows)]))
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


def draw(pairs: pd.DataFrame, summary: Mapping[str, Any], caption: str, path: Path) -> Path:
    """Scatter of Phi against true cosine, Spearman of every predictor, and of Phi by block of parameters."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained", width_ratios=(1.15, 1, 1))
    scatter_panel(axes[0], pairs, rows_of(summary)["phi"])
    found = rows_of(summary)
    ordered = sorted(found, key=lambda name: found[name]["spearman"]["value"] or 0.0)
    bars = {LABELS[name]: found[name]["spearman"] for name in ordered}
    bars_panel(axes[1], bars, [PHI if name == "phi" else RIVAL for name in ordered])
    axes[1].set_title("which similarity predicts the true cosine", fontsize=10)
    blocks = list(reversed(summary["blocks"]))
    by_block = {name: rows_of(summary, name)["phi"]["spearman"] for name in blocks}
    bars_panel(axes[2], by_block, [PHI] * len(blocks))
    axes[2].set_title("Φ against the gradient of one block only", fontsize=10)
    axes[2].set_yticks(
        range(len(blocks)),
        [f"{name} ({summary['blocks'][name]['gradient_share']:.0%})" for name in blocks],
        fontsize=9 if len(blocks) < 15 else 6,
    )
    axes[2].set_xlabel(
        "Spearman correlation with the block's cosine\n(in brackets: its share of the squared norm)"
    )
    figure.supxlabel(caption, fontsize=8, color="0.35")
    return save_figure(figure, path)


def scatter_panel(axis: Any, pairs: pd.DataFrame, row: Mapping[str, Any]) -> None:
    """Phi against true cosine, one dot a pair; `row` holds their correlations, see `rows_of`."""
    size = 9 if len(pairs) > 300 else 26
    for name, colour in PAIR_COLOURS.items():
        chosen = pairs[pairs["pair"] == name]
        if len(chosen):
            axis.scatter(
                chosen["phi"], chosen[TRUE + TOTAL], s=size, alpha=0.5, lw=0, color=colour,
                label=f"{name} ({len(chosen)})",
            )  # fmt: skip
    axis.axline((0, 0), slope=1, color="0.6", lw=0.8, ls="--", label="equal")
    axis.axhline(0, color="0.85", lw=0.8, zorder=0)
    axis.axvline(0, color="0.85", lw=0.8, zorder=0)
    axis.set_xticks([-1, -0.5, 0, 0.5, 1])
    axis.set_xlabel("cosine of gradient features Φ")
    axis.set_ylabel("cosine of true gradients, all parameters")
    axis.set_title(
        f"pairs of responses to one problem: Pearson {row['pearson']['value']:.2f}, "
        f"Spearman {row['spearman']['value']:.2f}",
        fontsize=10,
    )
    legend = axis.legend(frameon=False, fontsize=8, loc="upper left")
    for handle in legend.legend_handles[:-1]:
        handle.set_alpha(1)
        handle.set_sizes([24])
    axis.spines[["top", "right"]].set_visible(False)


def bars_panel(axis: Any, values: Mapping[str, Mapping[str, Any]], colours: list[str]) -> None:
    """Horizontal bars with their intervals; what is undefined has none."""
    for place, (interval, colour) in enumerate(zip(values.values(), colours, strict=True)):
        if interval["value"] is None:
            axis.text(0.0, place, " undefined", va="center", fontsize=8)
            continue
        axis.barh(place, interval["value"], height=0.65, color=colour, alpha=0.75, lw=0)
        if interval["low"] is not None:
            axis.plot([interval["low"], interval["high"]], [place, place], color="black", lw=1.2)
    axis.axvline(0, color="0.4", lw=0.8)
    axis.set_yticks(range(len(values)), list(values), fontsize=9)
    axis.set_ylim(-0.6, len(values) - 0.4)
    axis.set_xlabel("Spearman correlation with the true cosine\n(line: 95 % interval over problems)")
    axis.spines[["top", "right"]].set_visible(False)
