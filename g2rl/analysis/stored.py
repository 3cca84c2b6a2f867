"""Read back what the commands wrote, as the functions that draw want it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.captions import truncation
from g2rl.analysis.comparison.runs import COLUMNS, collect
from g2rl.analysis.geometry.numbers import GRADIENT, SEMANTIC

UNKNOWN = "sampling and scoring temperature unknown: these runs have no probe"


def read_runs(place: Path | Iterable[Path], by: Sequence[str] = ()) -> pd.DataFrame:
    """Every number of several runs, long: columns arm, seed, run, step, metric, value.

    Args:
        place: `runs.parquet` of `g2rl-analyze compare`, a folder of runs, or several such folders.
        by: settings that tell arms apart, see `collect`; of no use with a parquet file, whose arms
            are made.

    Raises:
        ValueError: a parquet file of something else, or what `collect` refuses.
        FileNotFoundError: no such file.
    """
    if isinstance(place, Path) and place.suffix == ".parquet":
        frame = pd.read_parquet(place)
        if not set(COLUMNS) <= set(frame):
            raise ValueError(
                f"{place} has the columns {', '.join(frame)}, not {', '.join(COLUMNS)}: "
                "give a runs.parquet of g2rl-analyze compare, or a folder of runs"
            )
        return frame[list(COLUMNS)]
    return collect([place] if isinstance(place, Path) else list(place), by)


def probe_conditions(frame: pd.DataFrame) -> str:
    """Temperatures and truncation of the runs' probes; "mixed" where runs differ. Stands under
    probe cosines.

    Args:
        frame: of `read_runs`.
    """
    names = ("probe/sampled_at", "probe/top_p", "probe/top_k", "probe/scored_at")
    rows = frame[frame["metric"].isin(names)].pivot(
        index=["arm", "seed", "step"], columns="metric", values="value"
    )
    if rows.empty:
        return UNKNOWN
    said = {
        f"sampled at temperature {row[names[0]]:g}, {truncation(row[names[1]], row[names[2]])}; "
        f"p_t scored at temperature {row[names[3]]:g}"
        for _, row in rows.drop_duplicates().iterrows()
    }
    return said.pop() if len(said) == 1 else f"mixed: {' | '.join(sorted(said))}"


def read_geometry(folder: Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables pairs, responses, numbers of `g2rl-analyze geometry`, and its settings, for
    `draw_geometry`.

    Raises:
        FileNotFoundError: the folder does not hold them.
    """
    found = _read_json(folder, "geometry.json", "g2rl-analyze geometry")
    parts = [
        pd.DataFrame(cell[space]).assign(
            space=space, sampled_at=cell["sampled_at"], scored_at=scored_at
        )
        for cell in found["cells"]
        for space, scored_at in ((GRADIENT, cell["scored_at"]), (SEMANTIC, float("nan")))
        if cell[space]
    ]
    numbers = pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
    numbers = numbers.astype(
        {"value": "float64", "low": "float64", "high": "float64"}
    )  # null is NaN
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("pairs", "responses")}
    return {**tables, "numbers": numbers}, found["settings"]


def read_fidelity(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Pairs and summary of `g2rl-analyze fidelity`; the summary's "caption" says how they were
    measured.

    Raises:
        FileNotFoundError: the folder does not hold them.
    """
    summary = _read_json(folder, "fidelity.json", "g2rl-analyze fidelity")
    return pd.read_parquet(folder / "pairs.parquet"), summary


def read_summaries(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The summaries of several `g2rl-analyze fidelity`, by name."""
    return {
        name: _read_json(place, "fidelity.json", "g2rl-analyze fidelity")
        for name, place in folders.items()
    }


def _read_json(folder: Path, name: str, command: str) -> dict[str, Any]:
    place = folder / name
    if not place.is_file():
        raise FileNotFoundError(f"{folder} has no {name}: give a folder that {command} wrote")
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found
