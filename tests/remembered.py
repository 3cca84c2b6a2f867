"""What Hydra and OmegaConf have read, parsed and merged is remembered for a whole process.

A test session composes some hundred times, and a sweep ten times for two arms; Hydra would do the
same work anew each time. Files are looked up each time, and one that has changed since it was read
is read again. `tests/cli/config/test_compose.py` compares with Hydra as it is, and commands that
start Python anew have nothing of this.
"""

from __future__ import annotations

import copy
import functools
import os
import pickle
from collections.abc import Sequence
from typing import Any

import hydra.version
import omegaconf._utils
import omegaconf.base
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.override_parser import overrides_parser
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, flag_override, grammar_parser
from omegaconf.errors import OmegaConfBaseException

Key = tuple[Any, ...]
Listed = tuple[list[ResultDefault], Any]

IN_PLACE = "no_deepcopy_set_nodes"
HAS_DEFAULTS = "HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"

_MERGE = ConfigLoaderImpl._compose_config_from_defaults_list
_PLACE = ConfigLoaderImpl._load_single_config
_LOAD = ConfigRepository.load_config
_COPY = CachingConfigRepository.__init__
_MAP = defaults_list._create_interpolation_map
_LIST = defaults_list._create_defaults_list
_VERSION = hydra.version._get_version
_FUNCTIONS = overrides_parser.create_functions
_PARSE = grammar_parser.parse

# Hydra only reads what it has loaded, but changes what it has placed and merged: of these it gets a
# copy, which unpickling makes in less than half the time of `copy.deepcopy`
_loaded: dict[Key, ConfigResult | None] = {}
_placed: dict[Key, bytes] = {}
_merged: dict[Key, bytes] = {}
_begun: dict[Key, bytes | None] = {}  # None: met, but nothing else has begun so yet
_listed: dict[Key, tuple[Key, Listed, dict[str, Any]]] = {}


def remember() -> None:
    """Let Hydra and OmegaConf remember from now on, in this process and its forks."""
    parse = functools.lru_cache(maxsize=4096)(_PARSE)
    for module in (omegaconf.base, omegaconf._utils):
        module.parse = parse  # its trees are only read
    ConfigRepository.load_config = _load_once
    ConfigLoaderImpl._load_single_config = _place_once
    ConfigLoaderImpl._compose_config_from_defaults_list = _merge_once
    CachingConfigRepository.__init__ = _copy_lightly
    defaults_list._create_interpolation_map = _map_where_needed
    defaults_list._create_defaults_list = _list_once
    hydra.version._get_version = functools.cache(_VERSION)
    overrides_parser.create_functions = functools.cache(_FUNCTIONS)


def forget() -> None:
    """Make Hydra and OmegaConf what they were."""
    for module in (omegaconf.base, omegaconf._utils):
        module.parse = _PARSE
    ConfigRepository.load_config = _LOAD
    ConfigLoaderImpl._load_single_config = _PLACE
    ConfigLoaderImpl._compose_config_from_defaults_list = _MERGE
    CachingConfigRepository.__init__ = _COPY
    defaults_list._create_interpolation_map = _MAP
    defaults_list._create_defaults_list = _LIST
    hydra.version._get_version = _VERSION
    overrides_parser.create_functions = _FUNCTIONS


def _state(config_path: str, sources: Sequence[ConfigSource]) -> Key:
    """Where a configuration file is looked for, and the state of what is found there."""
    name = ConfigSource._normalize_file_name(config_path)
    found: list[Any] = [config_path]
    for source in sources:
        found.append(source.path)
        if source.scheme() == "file":
            try:
                about = os.stat(os.path.join(source.path, name))
            except OSError:  # the file is in another folder, or in none
                continue
            found += [about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino]
    return tuple(found)


def _load_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A configuration file as Hydra reads it."""
    key = _state(config_path, repository.sources)
    if key not in _loaded:
        _loaded[key] = _LOAD(repository, config_path)
    return _loaded[key]


def _list_once(
    repo: CachingConfigRepository,
    config_name: str,
    overrides: Overrides,
    prepend_hydra: bool,
    skip_missing: bool,
) -> Listed:
    """The files that a command and the choices among its overrides bring, in their order.

    Hydra notes in `overrides` what it has met on its way there; single settings have no part in it.
    """
    asked = (overrides.override_choices, overrides.override_metadata, overrides.deletions)
    added = [vars(default) for default in overrides.append_group_defaults]
    sources = repo.get_sources()
    places = tuple(source.path for source in sources)
    key = (config_name, prepend_hydra, skip_missing, repr(asked), repr(added), places)

    # as before, if each file that was read then is as it was
    if key in _listed:
        states, listed, met = _listed[key]
        if all(_state(state[0], sources) == state for state in states):
            vars(overrides).update(met)
            return listed

    # Hydra only reads these lists, and nothing of what it notes is changed when they are made
    listed = _LIST(repo, config_name, overrides, prepend_hydra, skip_missing)
    states = tuple(_state(name.removeprefix("config_path="), sources) for name in repo.cache)
    single = ("config_overrides", "append_group_defaults")
    met = {name: value for name, value in vars(overrides).items() if name not in single}
    _listed[key] = (states, listed, met)
    return listed


def _place_once(
    loader: ConfigLoaderImpl, default: ResultDefault, repo: CachingConfigRepository
) -> ConfigResult:
    """A configuration file at its place in the whole."""
    assert default.config_path is not None
    state = _state(default.config_path, repo.get_sources())
    key = (default.package, default.primary, state)
    if key not in _placed:
        _placed[key] = pickle.dumps(_PLACE(loader, default, repo))
    return pickle.loads(_placed[key])


def _merge_once(
    loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: CachingConfigRepository
) -> DictConfig:
    """The files of a list of defaults in one, before single settings."""
    beginnings: list[Key] = []
    for default in defaults:
        state = _state(str(default.config_path), repo.get_sources())
        beginnings.append((*beginnings[-1:], repr(vars(default)), state))
    key = tuple(beginnings[-1:])
    if key not in _merged:
        try:
            merged = _merge_further(loader, defaults, repo, beginnings)
        except OmegaConfBaseException:  # Hydra says in which file
            merged = _MERGE(loader, defaults, repo)
        _merged[key] = pickle.dumps(merged)
    return pickle.loads(_merged[key])


def _merge_further(
    loader: ConfigLoaderImpl,
    defaults: list[ResultDefault],
    repo: CachingConfigRepository,
    beginnings: list[Key],
) -> DictConfig:
    """What Hydra merges, from where an earlier list of defaults goes on otherwise.

    Args:
        loader, defaults, repo: Hydra's.
        beginnings: of the list, a key for each of its lengths.
    """
    # as much as has been merged before
    shared = [number for number, key in enumerate(beginnings, start=1) if key in _begun]
    known = [number for number in shared if _begun[beginnings[number - 1]] is not None]
    done = max(known, default=0)
    merged = OmegaConf.create()
    if done:
        merged = pickle.loads(_begun[beginnings[done - 1]] or b"")
        merged._set_flag(IN_PLACE, None)

    # the rest; what it shares with another list, further ones may share too
    with flag_override(merged, IN_PLACE, True):
        for number, default in enumerate(defaults[done:], start=done + 1):
            merged.merge_with(loader._load_single_config(default=default, repo=repo).config)
            if number == max(shared, default=0):
                _begun[beginnings[number - 1]] = pickle.dumps(merged)
    for key in beginnings:
        _begun.setdefault(key, None)
    _strip(merged)
    return merged


def _strip(node: Any) -> None:
    """Take lists of defaults out of a configuration, as Hydra does when all is merged."""
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return
    with flag_override(node, ["readonly", "struct"], False):
        if node._get_flag(HAS_DEFAULTS):
            node._set_flag(HAS_DEFAULTS, None)
            node.pop("defaults", None)
    for _, child in node.items_ex(resolve=False):
        _strip(child)


def _copy_lightly(own: CachingConfigRepository, delegate: ConfigRepository) -> None:
    """A repository of its own for one composition, which may give it another list of sources but
    changes no source: Hydra copies each of them."""
    own.delegate = copy.copy(delegate)
    own.cache = {}


def _map_where_needed(
    overrides: Overrides, defaults: list[InputDefault], self_added: bool
) -> DictConfig:
    """The choices that a list of defaults may name, which Hydra collects for every file with such a
    list and looks at where the list has an interpolation."""
    if any(default.is_interpolation() for default in defaults):
        return _MAP(overrides, defaults, self_added)
    return OmegaConf.create()
