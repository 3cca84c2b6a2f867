"""Runs whose responses were written by an enemy, for the tests of the page about a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

HOSTILE = (
    "</script><script>window.pwned = 1; alert(1)</script>",
    '<img src=x onerror="window.pwned = 2"><!-- ]]> {{ 7 * 7 }} &lt;b&gt;',
    "<svg onload='window.pwned = 3'><style>body{display:none}</style>",
)
"""Texts that would be code if they were ever read as HTML: a response, a prompt and an answer."""


def hostile_run(finished_run: Path, place: Path) -> Path:
    """A copy of a run, under a hostile name, in whose last step the first group is hostile."""
    folder = place / "<b onclick=window.pwned=4>run"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "model"))
    path = folder / "rollouts" / "step_000003.parquet"
    rollouts = pd.read_parquet(path)
    rollouts.loc[:3, "prompt"] = HOSTILE[1]
    rollouts.loc[0, "completion"] = HOSTILE[0]
    rollouts.loc[0, "answer"] = HOSTILE[2]
    rollouts.loc[1, "completion"] = "\x00\x1b[31mred\x07 \u202egnp.exe"
    rollouts.loc[2, "completion"] = "x" * 1_000_000
    rollouts.loc[3, "completion"] = ""
    rollouts.to_parquet(path, index=False)
    return folder
