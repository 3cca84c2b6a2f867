"""Where the configuration lives, and checks of what the user typed before Hydra runs."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

TAG_LENGTH = 60
ARM_LENGTH = 40
VALUED_FLAGS = ("--cfg", "-c", "--package", "-p")
ASKING_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--info", "-i"}  # they start no run
OWN_CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")


def config_dir() -> Path:
    """The packaged conf/ of a wheel, or the sibling folder of a source checkout."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/ beside or inside {package}: the installation is incomplete")


def run_tag(overrides: str) -> str:
    """Overrides as part of a folder name: readable when short, cut and hashed when long."""
    if not overrides:
        return ""
    name = re.sub(r"[^\w.=+-]+", "_", overrides)
    if len(name) > TAG_LENGTH:
        name = f"{name[: TAG_LENGTH - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    return f"-{name}"


def arm_name(words: Sequence[str], swept: Mapping[str, Any] | None, excluded: Sequence[str]) -> str:
    """Folder of a sweep's arm: what the study sweeps, then other overrides, hashed when long.

    Args:
        words: overrides of one run, ``["exploration.lam=0.3", "seed=1", "trainer.steps=9"]``.
        swept: hydra.sweeper.params, whose keys come first and by their last part.
        excluded: keys that are not named.

    Returns:
        ``lam=0.3``, ``lam=0.3-trainer.steps=9``, ``lam=0.3-1f0c22ab``; ``default`` when nothing is left.
    """
    settings = [word.lstrip("+").split("=", 1) for word in words if not word.startswith("~")]
    kept = [(key, value) for key, value in settings if key not in excluded and not key.startswith("hydra.")]
    head = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in kept if key in (swept or {})]
    rest = ",".join(sorted(f"{key}={value}" for key, value in kept if key not in (swept or {})))
    tag = run_tag(rest)
    if len(tag) > ARM_LENGTH:
        tag = f"-{hashlib.sha256(rest.encode()).hexdigest()[:8]}"
    return f"{run_tag(','.join(head))}{tag}".removeprefix("-") or "default"


def run_group(what: str) -> str:
    """Name by which tracking groups runs: ``signals-countdown-tiny`` in experiment=signals, else `what`."""
    chosen = HydraConfig.get().runtime.choices.get("experiment") if HydraConfig.initialized() else None
    return what if chosen in (None, "null") else f"{chosen}-{what}"


def eval_dir(
    run: str | None,
    samples: str | None,
    compare: Sequence[Any],
    model: str,
    benchmark: str,
    overrides: str,
    absolute: bool = False,
) -> str:
    """Where an evaluation writes: beside the run or the samples it is about, else under evals/.

    Names hold no "=", so that they can be typed in an override. `absolute` is for sweeps, whose folders
    Hydra would put under another.
    """
    tag = run_tag(overrides.replace("benchmark.", "").replace("=", "-"))
    if compare:
        folder = Path("evals") / f"compare-{hashlib.sha256(str(compare).encode()).hexdigest()[:8]}"
    elif samples is not None and Path(samples).expanduser().is_file():
        folder = Path(samples).expanduser().parent / f"regraded{tag}"
    elif run is not None and Path(run).expanduser().is_dir():
        folder = Path(run).expanduser() / "eval" / f"{benchmark}{tag}"
    else:
        folder = Path("evals") / f"{model}-{benchmark}{tag}"
    return str(folder.resolve() if absolute else folder)


def share_cores() -> None:
    """Let idle OpenMP threads sleep instead of spin; to be called before torch is imported.

    On a core shared with anything else a spinning team waits for its slowest member: training steps of
    the tiny policy took 7 to 57 s beside one busy process, and 4 s with this. The user's setting wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def register_resolvers() -> None:
    from g2rl.cli.config.labels import run_label

    OmegaConf.register_new_resolver("run_tag", run_tag, replace=True)
    OmegaConf.register_new_resolver("eval_dir", eval_dir, replace=True)
    OmegaConf.register_new_resolver("arm_name", arm_name, replace=True)
    OmegaConf.register_new_resolver("run_group", run_group, replace=True)
    OmegaConf.register_new_resolver("run_label", run_label, replace=True)
    OmegaConf.register_new_resolver("choices", lambda group: ", ".join(choices(group)), replace=True)


def choices(group: str) -> list[str]:
    """The choices of a config group, as file names without suffix."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def groups() -> list[str]:
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir())


def groups_of(config_name: str) -> list[str]:
    """The groups that a command chooses from: those of its defaults list and what their choices bring."""
    chosen = _compose([], config_name, hydra=True).hydra.runtime.choices
    return sorted(name for name in groups() if any(str(key).split("@")[0] == name for key in chosen))


def flat_keys(node: Any, prefix: str = "") -> set[str]:
    """Every dotted key of a configuration, inner nodes included."""
    found: set[str] = set()
    for name in node if isinstance(node, DictConfig) else ():
        key = f"{prefix}{name!s}"
        found.add(key)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            found |= flat_keys(child, f"{key}.")
    return found


def explain_mistakes(words: Sequence[str], config_name: str) -> str | None:
    """Say what is wrong with the overrides and what was probably meant; None when all is well.

    Only what can be told without running is checked here: names of groups, choices and keys.
    """
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        return str(error)
    chosen: list[str] = []
    offered = groups_of(config_name)
    for override in overrides:
        if override.key_or_group in set(groups()) - set(offered):
            return f"{override.input_line}: there is no such group here; there are {', '.join(offered)}"
        if override.key_or_group not in offered:
            continue
        names = [v for v in _values(override) if isinstance(v, str)]
        unknown = [name for name in names if name not in choices(override.key_or_group)]
        if unknown:
            return _did_you_mean(
                f"{override.key_or_group}={unknown[0]}", unknown[0], choices(override.key_or_group),
                f"{override.key_or_group} has no choice {unknown[0]!r}",
            )  # fmt: skip
        if names and override.package:  # +benchmark@benchmark.suite.aime24=aime24
            chosen.append(str(override.input_line))
        elif names:
            chosen.append(f"{override.key_or_group}={names[0]}")
    known = flat_keys(_compose(chosen, config_name))
    for override in overrides:
        key = override.key_or_group
        plain = not (override.is_add() or override.is_delete())
        if (
            plain
            and key not in offered
            and not key.startswith("hydra")
            and "@" not in key
            and key not in known
        ):
            return _did_you_mean(
                str(override.input_line), key, sorted(known | set(offered)), f"there is no key {key!r}"
            )
    return None


def _values(override: Override) -> list[Any]:
    """The value of an override, or every value of a simple sweep."""
    if override.is_sweep_override():
        try:
            found = list(override.sweep_iterator())
        except HydraException:
            return []
        return [str(value) for value in found]
    value = override.value()
    return [value.text if isinstance(value, QuotedString) else value]


def _compose(overrides: list[str], config_name: str, hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(config_name, overrides=overrides, return_hydra_config=hydra)


def _did_you_mean(text: str, wrong: str, known: Sequence[str], problem: str) -> str:
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
    last = wrong.rsplit(".", 1)[-1]  # the right leaf under the wrong node
    near += [key for key in known if key.rsplit(".", 1)[-1] == last and key not in near][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:20])}"
    return f"{text}: {problem}; {hint}"


def overrides_of(arguments: Sequence[str]) -> list[str] | None:
    """The KEY=VALUE words among command-line arguments; None when another configuration is asked for."""
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        flag = word.split("=", 1)[0]
        if flag in OWN_CONFIG_FLAGS:
            return None
        if word in VALUED_FLAGS:
            next(words, None)
        elif not word.startswith("-"):
            found.append(word)
    return found


def escape_paths(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Arguments with each "=" inside the values of some keys escaped, as Hydra's grammar asks.

    ``run=runs/lam=3`` becomes ``run=runs/lam\\=3``: folders of runs are named after their overrides.
    """
    found = []
    for word in arguments:
        key, _, value = word.partition("=")
        quoted = any(mark in value for mark in "'\"\\")
        escaped = key in keys and not quoted
        found.append(f"{key}={value.replace('=', chr(92) + '=')}" if escaped else word)
    return found


def refuse_mistakes(config_name: str) -> None:
    """Exit with code 2 and one clear line when an override is misspelt."""
    words = overrides_of(sys.argv[1:])
    problem = explain_mistakes(words, config_name) if words else None
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)


def launch(config_name: str, run: Callable[[DictConfig], Any], path_keys: Sequence[str]) -> None:
    """Run a command under Hydra, its overrides checked first.

    Args:
        config_name: of the file in conf/.
        path_keys: keys whose values are paths, in which "=" needs no escape.
    """
    share_cores()
    register_resolvers()
    sys.argv[1:] = escape_paths(sys.argv[1:], path_keys)
    if not ASKING_FLAGS & set(sys.argv[1:]):
        refuse_mistakes(config_name)
    hydra.main(config_path=str(config_dir()), config_name=config_name, version_base="1.3")(run)()
