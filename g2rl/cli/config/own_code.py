"""Code of the user's own that a configuration names: where it lies, so that Python finds it.

A YAML file in a folder of --config-dir may say ``_target_: surprise.Surprise``, whatever folder the
command is started in. Its module may lie in that folder, in the folder of the YAML file, beside
that folder, or in the current one. Only folders that hold a module that is named and found nowhere
else go on the import path, at its end: nothing of the user's hides an installed package.

Worker processes that grade have the import path of the process that starts them. Those of a sweep
run `make_importable` themselves, by way of `g2rl.cli.door`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.cli.config.choices import config_dir
from g2rl.tasks.grading.code_files import look_first_in, python_file

TARGET = "_target_"
OF_FUNCTIONS = ("reward", "function")
"""Settings that name functions, ``module:function`` or ``file.py:function``."""
CODE_KEYS = (TARGET, *OF_FUNCTIONS, "taskset")
"""All settings that name code."""

_own_folders: list[Path] = []
"""Folders of configuration files that the user has brought, of the command of this process."""


def own_folders() -> tuple[Path, ...]:
    """Folders of --config-dir and hydra.searchpath, in which choices of the user's own lie."""
    return tuple(_own_folders)


def folders_of(hydra: Any) -> list[Path]:
    """The folders of configuration files that Hydra's own node knows besides conf/."""
    folders: list[Path] = []
    for source in hydra.runtime.config_sources:
        # others are in packages, or are no folders at all
        if source.schema == "file" and source.path:
            folder = Path(source.path)
            if folder.is_dir() and folder.resolve() != config_dir().resolve():
                folders.append(folder.resolve())
    return folders


def make_importable(config: Any, folders: Sequence[Path]) -> None:
    """Put the folders of modules that a configuration names on the import path.

    Nothing is imported.

    Args:
        config: composed; nodes inside it may have a `_target_` or name reward functions.
        folders: of the user's own configuration files.

    Raises:
        ValueError: a module that is nowhere, with the folders that were searched.
    """
    for folder in folders:
        if folder not in _own_folders:
            _own_folders.append(folder)
    node = config
    if isinstance(config, DictConfig):
        node = OmegaConf.to_container(config, resolve=False)
    places = search_folders(folders)
    look_first_in(places)
    for key, name in named_code(node):
        if _is_sought(key, name):
            _make_one_importable(key, name, places)


def named_code(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys and values of all settings that may name code, at any depth.

    Nothing that could be a name is left out: what may run is decided by these values, too. So words
    that a setting has beside names are among them, and what is interpolated.
    """
    if isinstance(node, list):
        for place, item in enumerate(node):
            yield from named_code(item, f"{key}[{place}]")
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        inner = f"{key}.{name}" if key else str(name)
        if name in CODE_KEYS:
            # entries that are settings of their own are looked into below
            for one in value if isinstance(value, list) else [value]:
                if one is not None and not isinstance(one, Mapping):
                    yield inner, str(one)
        yield from named_code(value, inner)


def _is_sought(key: str, name: str) -> bool:
    """Whether a value of `named_code` is a class or a function that has to be found."""
    # what is interpolated stands elsewhere too; a reward may be a word for something else
    leaf = key.rpartition(".")[2]
    return "${" not in name and (leaf == TARGET or (leaf in OF_FUNCTIONS and ":" in name))


def search_folders(folders: Sequence[Path]) -> list[Path]:
    """Where modules are looked for, in this order: beside the YAML files, above, and here."""
    places: list[Path] = []
    for folder in folders:
        groups = sorted(path for path in folder.iterdir() if path.is_dir())
        places += [folder, *groups]
    places += [folder.parent for folder in folders]
    return list(dict.fromkeys([*places, Path.cwd()]))


def _make_one_importable(key: str, name: str, places: Sequence[Path]) -> None:
    """Put the folder that holds a module on the import path, unless it is found already.

    Raises:
        ValueError: it is nowhere.
    """
    module = name.rpartition(":")[0] if ":" in name else name
    is_file = ":" in name and module.endswith(".py")
    top = module.split(".")[0]
    if is_file:
        # a path that leads somewhere needs no search
        if Path(module).expanduser().is_file():
            return
        found = [place for place in places if (place / module).is_file()][:1]
        is_elsewhere = python_file(module) is not None
    else:
        if _has_code(_spec_of(top)):
            return
        found = _folders_with(top, places)
        is_elsewhere = _spec_of(top) is not None

    # what is nowhere is said before anything is loaded
    if not found and not is_elsewhere:
        what = f"file {module}" if is_file else f"module {top}"
        searched = ", ".join(str(place) for place in places)
        raise ValueError(
            f"{key}={name}: there is no {what}, neither on Python's path nor in {searched}; put it "
            "into one of these folders, or name its folder by --config-dir"
        )
    for folder in found:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
            importlib.invalidate_caches()


def _folders_with(top: str, places: Sequence[Path]) -> list[Path]:
    """The first place with code of a module; without any, all with a folder of its name.

    Such a folder is a package to Python even without `__init__.py`. But it may just as well be a
    group of YAML files, so a file of that name anywhere comes before it.
    """
    folders: list[Path] = []
    for place in places:
        spec = PathFinder.find_spec(top, [str(place)])
        if _has_code(spec):
            return [place]
        if spec is not None:
            folders.append(place)

    # Python joins the parts of such a package
    return folders


def _spec_of(top: str) -> ModuleSpec | None:
    """Where Python finds a module by itself, or None."""
    # what is loaded may have no specification, as `__main__`
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ModuleSpec(top, None, origin="loaded") if top in sys.modules else None


def _has_code(spec: ModuleSpec | None) -> bool:
    """Whether a module is more than a folder of its name."""
    return spec is not None and spec.origin is not None
