"""Read back what the commands wrote, in the form that the functions that draw want."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.captions import one_or_mixed, probe_caption
from g2rl.analysis.comparison.runs import COLUMNS, collect
from g2rl.analysis.fidelity.records import StoredSummary
from g2rl.analysis.geometry.records import GRADIENT, SEMANTIC, CellSummary, GeometrySettings

UNKNOWN = "sampling and scoring temperature unknown: these runs have no probe"


def read_runs(place: Path | Iterable[Path], by: Sequence[str] = ()) -> pd.DataFrame:
    """Every number of several runs, long: columns arm, seed, run, step, metric, value.

    Args:
        place: `runs.parquet` of `g2rl-analyze compare`, a folder of runs, or several such folders.
        by: settings that tell arms apart, see `collect`; without effect on a parquet file, in which
            every run has its arm.

    Raises:
        ValueError: a parquet file of something else, or what `collect` refuses.
        FileNotFoundError: no such file.
    """
    # several folders, or one
    if not isinstance(place, Path):
        return collect(list(place), by)
    if place.suffix != ".parquet":
        return collect([place], by)

    # a table that `compare` wrote
    frame = pd.read_parquet(place)
    if not set(COLUMNS) <= set(frame):
        raise ValueError(
            f"{place} has the columns {', '.join(frame)}, not {', '.join(COLUMNS)}: "
            "give a runs.parquet of g2rl-analyze compare, or a folder of runs"
        )
    return frame[list(COLUMNS)]


def probe_conditions(frame: pd.DataFrame) -> str:
    """Temperatures and truncation of the runs' probes, for the caption of their cosines.

    "mixed" where runs differ.

    Args:
        frame: long, of `read_runs`.
    """
    # one row a probe
    names = ("probe/sampled_at", "probe/top_p", "probe/top_k", "probe/scored_at")
    rows = frame[frame["metric"].isin(names)].pivot(
        index=["arm", "seed", "step"], columns="metric", values="value"
    )
    if rows.empty:
        return UNKNOWN

    # probes of one run are sampled alike, so most rows are the same
    return one_or_mixed(probe_caption(row) for _, row in rows.drop_duplicates().iterrows())


def read_geometry(folder: Path) -> tuple[dict[str, pd.DataFrame], GeometrySettings]:
    """The tables pairs, responses and numbers of `g2rl-analyze geometry`, and its settings.

    They are what `draw_geometry` and `draw_group` take.

    Raises:
        FileNotFoundError: the folder does not hold them.
    """
    summary = _read_json(folder, "geometry.json", "g2rl-analyze geometry")

    # cells of one sampled set repeat its numbers of embeddings
    numbers = pd.concat(_number_tables(summary["cells"]), ignore_index=True)
    numbers = numbers.drop_duplicates(ignore_index=True)

    # null in the file is NaN
    numbers = numbers.astype({"value": "float64", "low": "float64", "high": "float64"})

    # the larger tables have files of their own
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("pairs", "responses")}
    return {**tables, "numbers": numbers}, summary["settings"]


def _number_tables(cells: Iterable[CellSummary]) -> list[pd.DataFrame]:
    """The numbers of each cell and space, with the columns that say which they are."""
    tables = []
    for cell in cells:
        # gradient features depend on both temperatures
        gradient = pd.DataFrame(cell["gradient"])
        tables.append(
            gradient.assign(
                space=GRADIENT, sampled_at=cell["sampled_at"], scored_at=cell["scored_at"]
            )
        )

        # embeddings know no scoring temperature
        if cell["semantic"]:
            semantic = pd.DataFrame(cell["semantic"])
            tables.append(
                semantic.assign(
                    space=SEMANTIC, sampled_at=cell["sampled_at"], scored_at=float("nan")
                )
            )
    return tables


def read_fidelity(folder: Path) -> tuple[pd.DataFrame, StoredSummary]:
    """Pairs and summary of `g2rl-analyze fidelity`; its "caption" says how they were measured.

    Raises:
        FileNotFoundError: the folder does not hold them.
    """
    summary = _read_summary(folder)
    return pd.read_parquet(folder / "pairs.parquet"), summary


def read_summaries(folders: Mapping[str, Path]) -> dict[str, StoredSummary]:
    """The summaries of several `g2rl-analyze fidelity`, by name.

    Raises:
        FileNotFoundError: a folder does not hold one.
    """
    return {name: _read_summary(folder) for name, folder in folders.items()}


def _read_summary(folder: Path) -> StoredSummary:
    summary: StoredSummary = _read_json(folder, "fidelity.json", "g2rl-analyze fidelity")
    return summary


def _read_json(folder: Path, name: str, command: str) -> Any:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {name}: give a folder that {command} wrote")
    return json.loads(path.read_text(encoding="utf-8"))
