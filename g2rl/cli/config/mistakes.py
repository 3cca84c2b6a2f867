"""What is wrong with the words that a user typed, and what was probably meant."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from g2rl.cli.config.choices import choices, config_dir
from g2rl.cli.config.own_code import TARGET
from g2rl.cli.config.settings_file import read_settings
from g2rl.cli.config.synonyms import meant_by
from g2rl.cli.config.words import DRY_RUN, PLAIN_FLAGS, VALUED_FLAGS, Words
from g2rl.runs.files import YAML_FAULTS
from g2rl.tasks.places import why_no

SOURCED = {
    "model": "model=hf model.source",
    "task": "task=rows task.source.source",
    "benchmark": "benchmark=rows benchmark.source",
}
"""Groups with a choice for files and names of the hub, and what takes them."""
SEARCH_PATH = "hydra.searchpath"
"""The setting that names further folders of configuration files."""
PACKAGED = "pkg://"
"""Begins a place of the search path that is a package of Python."""
NO_BENCHMARK = (
    "the task brings no benchmark, on which the policy is evaluated: begin its file with "
    "defaults: [/benchmark@_global_.benchmark: countdown], or another choice"
)
"""What is said of a file of a task of the user's own that forgets it."""
MADE_BY_CLASS = ("encoder", "engine", "exploration", "partition", "tracking")
"""Groups of which every choice names the class that it is made into."""


def groups() -> list[str]:
    """All configuration groups: the folders of conf/."""
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir())


@dataclass(slots=True, frozen=True)
class Shelf:
    """Where a command's configuration is looked up: conf/, and folders that the user brings."""

    command: str
    """The command's file in conf/."""
    folders: tuple[Path, ...] = ()
    """Of --config-dir and hydra.searchpath."""

    def compose(self, overrides: Sequence[str], hydra: bool = False) -> DictConfig:
        """The configuration of the command, with Hydra's own node if asked for."""
        # Hydra keeps one loader a process, and a command that is running may need its own again
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        words = list(overrides)
        if self.folders:
            places = ",".join(f"'file://{folder.resolve()}'" for folder in self.folders)
            words.append(f"{SEARCH_PATH}=[{places}]")
        try:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                return compose(self.command, overrides=words, return_hydra_config=hydra)
        finally:
            GlobalHydra.instance().hydra = before

    def groups(self) -> list[str]:
        """The groups that the command chooses from, those included that other choices bring."""
        # of conf/ alone they are always the same, and g2rl-bench asks once for each of its arms
        if not self.folders:
            return list(_packaged_groups(self.command))
        return self._offered_groups()

    def _offered_groups(self) -> list[str]:
        """The groups among the choices that the command makes by itself."""
        choices_made = self.compose([], hydra=True).hydra.runtime.choices
        names = {str(key).split("@")[0] for key in choices_made}
        return sorted(names & set(groups()))

    def choices(self, group: str) -> list[str]:
        """The choices of a group, also those of the user's own folders."""
        names = set(choices(group))
        for folder in self.folders:
            names |= {path.stem for path in (folder / group).glob("*.yaml")}
        return sorted(names)


@functools.cache
def _packaged_groups(command: str) -> tuple[str, ...]:
    """The groups that a command chooses from where nobody brings a folder."""
    return tuple(Shelf(command)._offered_groups())


def groups_of(config_name: str) -> list[str]:
    """The groups that a command chooses from."""
    return Shelf(config_name).groups()


def flat_keys(node: Any, prefix: str = "") -> set[str]:
    """Every dotted key of a configuration, inner nodes included."""
    keys: set[str] = set()
    if not isinstance(node, DictConfig):
        return keys
    for name in node:
        key = f"{prefix}{name!s}"
        keys.add(key)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            keys |= flat_keys(child, f"{key}.")
    return keys


def explain_mistakes(
    words: Sequence[str], config_name: str, folders: Sequence[Path] = ()
) -> str | None:
    """Say what is wrong with the overrides and what was probably meant; None when all is well.

    Only what can be told without running is checked here: names of groups, choices and keys.

    Args:
        words: what the user typed, flags left out.
        config_name: the command's file in conf/.
        folders: further folders of configuration files.
    """
    # Hydra's grammar first
    for word in words:
        if "=" not in word and not word.startswith("~"):
            return f"{word}: settings are KEY=VALUE; --help lists them"
    overrides: list[Override] = []
    for word in words:
        try:
            overrides += OverridesParser.create().parse_overrides([word])
        except HydraException:
            return _outside_grammar(word)

    # then groups and keys
    searched = _searched(overrides)
    problem = missing_folder(searched, SEARCH_PATH) or _typed_twice(overrides)
    if problem:
        return problem
    shelf = Shelf(config_name, (*folders, *searched))
    offered = shelf.groups()
    own_files = _own_files(overrides, shelf)
    unreadable = filter(None, map(_why_unreadable, own_files.values()))
    problem = _wrong_choice(overrides, offered, shelf) or next(unreadable, None)
    if problem:
        return problem

    # choices bring keys of their own, so they are made first
    try:
        config = _with_choices(overrides, offered, shelf)
    except (HydraException, *YAML_FAULTS, OmegaConfBaseException, OSError) as error:
        return _refused_choices(error, shelf)
    if config_name == "train" and "benchmark" not in config:
        return NO_BENCHMARK
    return (
        _without_class(own_files, overrides, config)
        or _wrong_key(overrides, offered, config)
        or _without_value(overrides, config)
        or _wrong_sign(overrides, offered, config)
        or _refused_by_hydra(overrides, shelf)
    )


def _refused_choices(error: Exception, shelf: Shelf) -> str:
    """What is wrong with choices that Hydra cannot put together.

    Raises:
        Exception: the error, where it has no words and every file can be read.
    """
    # where Hydra has looked for it comes after an empty line
    if isinstance(error, HydraException) and str(error):
        told = " ".join(str(error).partition("\n\n")[0].split())
        return NO_BENCHMARK if told.startswith("Could not override 'benchmark'") else told

    # a file that another file of the user's own chooses
    for folder in shelf.folders:
        for path in sorted(folder.glob("*/*.yaml")):
            problem = _why_unreadable(path)
            if problem:
                return problem
    raise error


def _outside_grammar(word: str) -> str:
    """What is said of a word that Hydra cannot read, with the quotes that it most likely lacks."""
    key, _, value = word.partition("=")
    # inside quotes, a backslash means itself unless a quote follows
    quoted = re.sub(
        r"(\\*)('|\Z)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value
    )
    advised = f"{key}='{quoted}'"
    try:
        OverridesParser.create().parse_overrides([advised])
    except HydraException:
        return f"{word}: {key!r} is no name of a setting; settings are KEY=VALUE, --help lists them"

    # the shell takes one level of backslashes away
    typed = re.sub(r'([\\"$`])', r"\\\1", advised)
    return (
        f"{word}: this is no value in Hydra's grammar, where spaces, brackets, braces, commas and "
        f'quotes mean something; for a text type "{typed}", quotes included'
    )


def _searched(overrides: Sequence[Override]) -> list[Path]:
    """Folders that the user names in hydra.searchpath."""
    folders: list[Path] = []
    for override in overrides:
        if override.key_or_group == SEARCH_PATH:
            value = override.value()
            for place in value if isinstance(value, list) else [value]:
                # a package that is nowhere is Hydra's to refuse
                found: Path | None = Path(str(place).removeprefix("file://"))
                if str(place).startswith(PACKAGED):
                    found = _folder_of_package(str(place).removeprefix(PACKAGED))
                if found is not None:
                    folders.append(found)
    return folders


def _folder_of_package(name: str) -> Path | None:
    """The folder of a package, found without importing it; None where there is none."""
    places: list[str] = list(sys.path)
    for part in name.replace("/", ".").split("."):
        spec = PathFinder.find_spec(part, places)
        if spec is None or not spec.submodule_search_locations:
            return None
        places = list(spec.submodule_search_locations)
    return Path(places[0])


def _typed_twice(overrides: Sequence[Override]) -> str | None:
    """What is wrong where one key is given two values: Hydra would take the last in silence.

    A shell that knows braces makes such words of ``seed={0,1}``.
    """
    first_of: dict[str, Override] = {}
    for override in overrides:
        key = override.get_key_element()
        first = first_of.setdefault(key.lstrip("+~"), override)
        if first is not override:
            name = override.key_or_group
            return (
                f"{first.input_line} and {override.input_line}: {name} is given twice; one run "
                f"takes one value, and {name}=A,B --multirun is a run for each"
            )
    return None


def _wrong_choice(
    overrides: Sequence[Override], offered: Sequence[str], shelf: Shelf
) -> str | None:
    """What is wrong with a group that an override names, or with the choice from it."""
    for override in overrides:
        group = override.key_or_group
        if group not in offered:
            if group in groups():
                there = ", ".join(offered)
                return f"{override.input_line}: there is no such group here; there are {there}"
            continue

        # one choice, or those of a sweep
        for name in _values(override):
            problem = _no_choice(override, name, shelf.choices(group))
            if problem:
                return problem
    return None


def _no_choice(override: Override, name: Any, known: Sequence[str]) -> str | None:
    """What is wrong with one choice from a group; None where it is known, or is taken away."""
    group = override.key_or_group
    if isinstance(name, list):
        return next(filter(None, (_no_choice(override, one, known) for one in name)), None)
    if not isinstance(name, str):
        # a number, null, or settings in braces
        told = f"{override.input_line}: a choice of {group} is a name; known: {', '.join(known)}"
        return None if override.is_delete() else told
    if name in known:
        return None

    # a path or a name of the hub is no choice, but the source of one
    problem = f"{group} has no choice {name!r}"
    if group in SOURCED and not {"/", "."}.isdisjoint(name):
        return f"{group}={name}: {problem}; type {SOURCED[group]}={name}"
    return _did_you_mean(f"{group}={name}", name, known, problem)


def _own_files(overrides: Sequence[Override], shelf: Shelf) -> dict[str, Path]:
    """The files of the user's own that are chosen, by group; the first folder wins, as in Hydra."""
    found: dict[str, Path] = {}
    for override in overrides:
        for name in _values(override):
            places = [folder / override.key_or_group / f"{name}.yaml" for folder in shelf.folders]
            path = next((place for place in places if place.is_file()), None)
            if path is not None:
                found[override.key_or_group] = path
    return found


def _why_unreadable(path: Path) -> str | None:
    """What is wrong with a file of settings by itself; None when it can be read."""
    # only whether it can be read matters here; Hydra reads it again
    try:
        read_settings(path)
    except ValueError as error:
        return str(error)
    return None


def _without_class(
    own_files: Mapping[str, Path], overrides: Sequence[Override], config: DictConfig
) -> str | None:
    """Which file of the user's own names no class where one is made of it."""
    typed_keys = {override.key_or_group for override in overrides}
    for group in MADE_BY_CLASS:
        key = f"{group}._target_"
        if group in own_files and key not in typed_keys and not OmegaConf.select(config, key):
            return f"{own_files[group]} names no class; add the line _target_: MODULE.CLASS"
    return None


def _with_choices(
    overrides: Sequence[Override], offered: Sequence[str], shelf: Shelf
) -> DictConfig:
    """The configuration after the choices that were typed, the first of each sweep."""
    made_choices: list[str] = []
    for override in overrides:
        group = override.key_or_group
        names = [value for value in _values(override) if isinstance(value, str)]
        if group not in offered or not names:
            continue
        if override.package:  # +benchmark@benchmark.suite.aime24=aime24
            made_choices.append(str(override.input_line))
        else:
            made_choices.append(f"{group}={names[0]}")
    return shelf.compose(made_choices)


def _wrong_key(
    overrides: Sequence[Override], offered: Sequence[str], config: DictConfig
) -> str | None:
    """What is wrong with a key that an override changes.

    Args:
        overrides: as typed.
        offered: groups that the command chooses from.
        config: the configuration after the choices among the overrides.
    """
    known_keys = flat_keys(config)
    for override in overrides:
        key = override.key_or_group
        if not _must_be_known(override) or key in offered:
            continue
        if key not in known_keys:
            candidates = sorted(known_keys | set(offered))
            problem = f"there is no key {key!r}"

            # a class of the user's own has settings that no file names
            node_key = key.rpartition(".")[0]
            if node_key and f"{node_key}.{TARGET}" in {one.key_or_group for one in overrides}:
                return (
                    f"{override.input_line}: {problem}; a setting of the class that "
                    f"{node_key}._target_ names needs a plus: +{override.input_line}"
                )
            return _did_you_mean_key(str(override.input_line), key, candidates, problem)

        # a node would lose all its settings
        node = OmegaConf.select(config, key, throw_on_missing=False)
        is_one_value = not override.is_sweep_override() and not _is_dictionary(override)
        if isinstance(node, DictConfig) and is_one_value:
            inside = ", ".join(f"{key}.{name}" for name in list(node)[:8] if name != TARGET)
            inside = inside or f"+{key}.NAME=VALUE"  # as model.overrides, which begins empty
            return f"{override.input_line}: {key} is a group of settings; set one: {inside}"
    return None


def _without_value(overrides: Sequence[Override], config: DictConfig) -> str | None:
    """Which setting has no value, where a choice leaves it to the user, as model=hf its source."""
    typed_keys = {override.key_or_group for override in overrides}
    for key in sorted(flat_keys(config) - typed_keys):
        # literally "???"; what refers to such a setting gets its value with it
        node_key, _, name = key.rpartition(".")
        node = OmegaConf.select(config, node_key) if node_key else config
        if OmegaConf.is_missing(node, name):
            return f"{key} has no value, and the choices leave it to you: add {key}=VALUE"
    return None


def _wrong_sign(
    overrides: Sequence[Override], offered: Sequence[str], config: DictConfig
) -> str | None:
    """What is wrong with a plus before a choice that is made, or with deleting what is needed."""
    for override in overrides:
        word, key = str(override.input_line), override.key_or_group
        is_added = override.is_add() or override.is_force_add()
        if is_added and key in offered and not override.package:
            return f"{word}: {key} has a choice already; type {word.lstrip('+')} without the plus"

        # arguments of a class may have defaults, and a suite lives without one of its members
        node_key = key.rpartition(".")[0]
        node = OmegaConf.select(config, node_key) if node_key else config
        if not override.is_delete() or not isinstance(node, DictConfig) or key == "experiment":
            continue
        is_member = node_key and OmegaConf.is_dict(OmegaConf.select(config, key))
        if key in flat_keys(config) and TARGET not in node and not is_member:
            return f"{word}: {key} is needed; type another value of it, {key}=..."
    return None


def _refused_by_hydra(overrides: Sequence[Override], shelf: Shelf) -> str | None:
    """What is wrong with a word that only Hydra can tell: for its own node, added, deleted, or with
    several settings in braces."""
    suspects = [one for one in overrides if not _must_be_known(one) or _is_dictionary(one)]
    words = [str(one.input_line) for one in overrides if not one.is_sweep_override()]
    reason = _refusal(words, shelf) if suspects else None
    if reason is None:
        return None

    # the word without which nothing is refused
    known_keys = flat_keys(shelf.compose([], hydra=True))
    for override in suspects:
        word, key = str(override.input_line), override.key_or_group
        if _refusal([one for one in words if one != word], shelf) is None:
            if key.startswith("hydra.") and key not in known_keys:
                problem = f"there is no key {key!r}"
                return _did_you_mean_key(word, key, sorted(known_keys), problem)
            return f"{word}: {reason}"
    return f"{' '.join(words)}: {reason}"


def _refusal(words: Sequence[str], shelf: Shelf) -> str | None:
    """Why Hydra cannot compose a configuration of words, in one line; None where it can."""
    try:
        shelf.compose(words, hydra=True)
    except (HydraException, OmegaConfBaseException) as error:
        # the reason, without the folders that were searched
        reason = error.__cause__ if str(error).startswith("Error merging") else error
        told = " ".join(str(reason).split()).partition(" Config search path")[0]
        return told.partition(" full_key")[0]
    return None


def _must_be_known(override: Override) -> bool:
    """Whether an override changes a key, rather than adds or deletes one, or sets up Hydra."""
    if override.is_add() or override.is_delete():
        return False
    return not override.key_or_group.startswith("hydra") and "@" not in override.key_or_group


def _is_dictionary(override: Override) -> bool:
    """Whether a key is given settings in braces, which are merged into those that it has."""
    return isinstance(override.value(), dict)


def _values(override: Override) -> list[Any]:
    """The value of an override, or every value of a simple sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    try:
        swept_values = list(override.sweep_iterator())
    except HydraException:
        return []

    # as Hydra types them for each run, without the quotes
    return [value.text if isinstance(value, QuotedString) else str(value) for value in swept_values]


def _did_you_mean(text: str, wrong: str, known: Sequence[str], problem: str) -> str:
    """One line: what was typed, what is wrong, and the nearest names that exist."""
    near = _near(wrong, known)
    hint = f"known: {', '.join(known)}"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    return f"{text}: {problem}; {hint}"


def _near(wrong: str, known: Sequence[str]) -> list[str]:
    """Names that are spelt alike, then some with the right last name under a wrong node."""
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
    return near + [key for key in _of_last_name(wrong, known) if key not in near][:3]


def _of_last_name(wrong: str, known: Sequence[str]) -> list[str]:
    """Keys that end as a wrong one does."""
    last = wrong.rpartition(".")[2]
    return [key for key in known if key.rpartition(".")[2] == last]


def _did_you_mean_key(text: str, wrong: str, known: Sequence[str], problem: str) -> str:
    """The same for a key: also what other programs call so, else the keys that stand there."""
    # beside a word of other programs, or in a node that is right, what is spelt alike misleads
    node, _, last = wrong.rpartition(".")
    beside = [key for key in known if key.rpartition(".")[0] == node and TARGET not in key]
    meant = meant_by(wrong, known)
    if meant:
        meant += [f"{key}=..." for key in _of_last_name(wrong, known)]
    elif node in known:
        names = difflib.get_close_matches(last, [key[len(node) + 1 :] for key in beside], n=3)
        meant = [f"{node}.{name}" for name in names] + _of_last_name(wrong, known)[:3]
    else:
        meant = _of_last_name(wrong, known) or _near(wrong, known)
    if meant:
        return f"{text}: {problem}; did you mean {' or '.join(dict.fromkeys(meant))}?"

    # a list of all settings would hide the few that stand at this place
    names = beside or [key for key in known if "." not in key]
    return f"{text}: {problem}; known: {', '.join(names)} (--help lists all)"


def explain_flag(flag: str, config_name: str) -> str:
    """What is wrong with a flag that does not exist: most likely it is meant as a setting."""
    shelf = Shelf(config_name)
    known = flat_keys(shelf.compose([]))
    name = flag.lstrip("-").split("=", 1)[0].replace("-", "_")
    meant = meant_by(name, known | set(shelf.groups()))
    meant += [f"{key}=..." for key in _of_last_name(name, sorted(known))]
    meant = list(dict.fromkeys(meant))[:3]
    if not meant:
        flags = [*VALUED_FLAGS, *PLAIN_FLAGS]
        if config_name == "train":
            flags.append(DRY_RUN)
        meant = difflib.get_close_matches(flag, flags, n=1)

    hint = "--help lists settings and flags"
    if meant:
        hint = f"did you mean {' or '.join(meant)}?"
    return f"{flag}: there is no such flag, and settings are KEY=VALUE; {hint}"


def missing_folder(folders: Sequence[Path], setting: str = "--config-dir") -> str | None:
    """What is wrong where a folder that a setting names is none; None when all are there."""
    for folder in folders:
        absent = why_no("folder", folder)
        if absent:
            return f"{setting}: {absent}"
    return None


def _first_mistake(config_name: str, words: Words) -> str | None:
    """What is wrong with the flags, or else with the settings; None when all is well."""
    lacking = words.without_value()
    if lacking:
        return f"{lacking}: its value is missing; it stands behind it, as in {lacking} VALUE"
    if words.unknown_flags():
        return explain_flag(words.unknown_flags()[0], config_name)
    if words.overrides and not words.own_configuration:
        return explain_mistakes(words.overrides, config_name, words.config_folders)
    return None


def refuse_mistakes(config_name: str, words: Words) -> None:
    """Exit with code 2 and one clear line when an override is misspelt, or a flag does not exist.

    Args:
        config_name: the command's file in conf/.
        words: what the user typed.
    """
    problem = missing_folder(words.config_folders) or _first_mistake(config_name, words)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
