"""The file of a plan: what it says together with those that it builds upon, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from g2rl.cli.config.settings_file import read_settings

SECTIONS = ("rates_seed", "seeds", "baseline", "tasks", "arms")
"""What every plan must say."""
OF_A_TASK = ("experiment", "rates", "primary", "choose_by")
"""What it must say of each task."""
OF_CLAIMS = ("task", "arm", "against", "metrics")
"""What it must say of claims, where it makes some."""
NAME = re.compile(r"\w[\w.+-]*")
"""A name of a task or an arm: folders, files and commands hold it."""


def read_plan_file(path: Path) -> dict[str, Any]:
    """What a plan says, possibly with the plan that it builds upon.

    Raises:
        ValueError: it lacks a section, or something in it is not of its kind.
    """
    text = _content(path, ())
    lacking = [section for section in SECTIONS if section not in text]
    if lacking:
        raise ValueError(f"{path} says nothing of {', '.join(lacking)}")

    fault = _fault_of(text)
    if fault is not None:
        raise ValueError(f"{path}: {fault}")
    return text


def _content(path: Path, builders: tuple[Path, ...]) -> dict[str, Any]:
    """What a plan's file says; the files that it builds upon by `base` are filled in."""
    if path.resolve() in builders:
        raise ValueError(f"{path} builds upon itself by way of base")
    text: Any = OmegaConf.to_container(read_settings(path))
    if "base" not in text:
        return text

    # what the file says itself wins, setting by setting
    base = _content(path.parent / str(text.pop("base")), (*builders, path.resolve()))
    try:
        merged: Any = OmegaConf.to_container(OmegaConf.merge(base, text))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path} does not fit what it builds upon: {error}") from error
    return dict(merged)


def _fault_of(text: Mapping[str, Any]) -> str | None:
    """What keeps a text from being a plan; None for a plan."""
    # the seeds
    seeds = text["seeds"]
    if not _is_list_of(seeds, int) or len(set(seeds)) < len(seeds):
        return f"seeds must be a list of different whole numbers, got {seeds!r}"
    if not _is_list_of([text["rates_seed"]], int):
        return f"rates_seed must be a whole number, got {text['rates_seed']!r}"

    # what runs
    for section in ("tasks", "arms"):
        entries = text[section]
        if not isinstance(entries, Mapping) or not entries:
            return f"{section} must have entries NAME: ..., got {entries!r}"
        for name in entries:
            if not is_name(name):
                return f"{section}: {name!r} is no name for files and commands"
    for name, entry in text["tasks"].items():
        fault = _fault_of_task(entry)
        if fault is not None:
            return f"tasks.{name} {fault}"

    # what is claimed of it
    claims = text.get("claims") or {}
    lacking = [key for key in OF_CLAIMS if not isinstance(claims, Mapping) or key not in claims]
    return f"claims say nothing of {', '.join(lacking)}" if claims and lacking else None


def _fault_of_task(entry: Any) -> str | None:
    """What keeps an entry from being a task, as the end of a sentence; None for a task."""
    # what every task has
    lacking = [key for key in OF_A_TASK if not isinstance(entry, Mapping) or key not in entry]
    if lacking:
        return f"says nothing of {', '.join(lacking)}"

    # lists, of which a text would be one of letters
    if not _is_list_of(entry["choose_by"], str):
        return f"must name metrics as a list in choose_by, got {entry['choose_by']!r}"
    if not _is_list_of(entry["rates"], int, float, str):
        return f"must name learning rates as a list in rates, got {entry['rates']!r}"
    return None


def is_name(name: Any) -> bool:
    """Whether something can be called so."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _is_list_of(values: Any, *kinds: type) -> bool:
    """Whether something is a list of one or more values of some kinds; true is no number."""
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(one, kinds) and not isinstance(one, bool) for one in values)
    )
