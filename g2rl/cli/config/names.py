"""Names of folders, arms and groups, made of what the user typed; resolvers of conf/ call these."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from g2rl.runs.identity import free_keys, is_under, unnamed_keys

TAG_LENGTH = 60
"""Longest part of a folder's name that is made of overrides."""
LENGTH = "trainer.steps"
"""The setting that may grow when a run is continued."""
MEASURING = ("benchmark.", "trainer.eval_", "trainer.probe_")
"""Begins the settings by which a run is measured, which a long name leaves out first."""
ARM_LENGTH = 40
"""Longest part of an arm's name for what the study itself does not sweep."""


def run_tag(overrides: str) -> str:
    """Overrides as part of a folder's name: all of them when short, else what fits and a hash.

    Of a long text whole settings stand there, by the last part of their keys:
    ``-lam=3-prompts_per_step=4-ks=1_4-5d4243a4``. How a run is measured comes after what it is.

    Args:
        overrides: as Hydra joins them, ``exploration.lam=3,benchmark.ks=[1,4]``.
    """
    if not overrides:
        return ""
    name = _safe(overrides)
    if len(name) <= TAG_LENGTH:
        return f"-{name}"
    return _abridged(overrides, TAG_LENGTH)


def _abridged(overrides: str, length: int) -> str:
    """As many whole settings as fit, and a hash of all of them; the hash tells runs apart."""
    words: list[str] = []
    for word in separate(overrides):
        key, _, value = word.partition("=")

        # of a list its members, of a path the file
        value = value.strip("[]{}'\"")
        if "," not in value:
            value = value.rstrip("/").rpartition("/")[2]
        words.append(f"{key}={value}")
    words.sort(key=lambda word: word.startswith(MEASURING))
    return f"{whole_words(words, length - 9)}-{_short_hash(overrides)}"


def separate(overrides: str) -> list[str]:
    """Overrides that Hydra has joined by commas; those inside brackets and quotes do not count."""
    # "a=[1,2],b='x,y'" as a=[1,2] and b='x,y'
    words = [""]
    for character, depth in zip(overrides, depths(overrides), strict=True):
        if character == "," and depth == 0:
            words.append("")
        else:
            words[-1] += character
    return [word for word in words if word]


def depths(text: str) -> list[int]:
    """In how many brackets and quotes each character of a typed text stands.

    A bracket stands outside of itself where it opens. In quotes brackets are characters like
    others, and so is what a backslash precedes.
    """
    found: list[int] = []
    brackets, quote, is_escaped = 0, "", False
    for character in text:
        found.append(brackets + bool(quote))
        if is_escaped or character == "\\":
            is_escaped = not is_escaped
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            brackets += 1
        # one that closes nothing is left to Hydra, which refuses it
        elif character in "]})":
            brackets = max(brackets - 1, 0)
    return found


def _safe(text: str) -> str:
    """Characters that every disk takes, and every shell."""
    return re.sub(r"[^\w.=+-]+", "_", text)


def cut_tag(overrides: str) -> str:
    """The same as earlier versions have cut it, anywhere."""
    name = _safe(overrides)
    if len(name) > TAG_LENGTH:
        name = f"{name[: TAG_LENGTH - 9]}-{_short_hash(overrides)}"
    return f"-{name}" if name else ""


def _kept(root: Path | str, name: str, earlier: str) -> str:
    """The name of a folder, or the one under which an earlier version has made it already.

    Without this a run that began under the earlier name would begin again.
    """
    place = Path(root)
    if (place / earlier).is_dir() and not (place / name).exists():
        return earlier
    return name


def run_folder(root: str, head: str, overrides: str, seed: Any) -> str:
    """Name of a run's folder: ``HEAD-lam=3-seed0``.

    Args:
        root: the folder that it lies in.
        head: what was chosen, ``MODEL-TASK-SIGNAL``.
        overrides: the settings that were typed, as Hydra joins them.
        seed: of the run.
    """
    end = f"-seed{seed}"
    return _kept(root, f"{head}{run_tag(overrides)}{end}", f"{head}{cut_tag(overrides)}{end}")


def arm_folder(
    words: Sequence[str],
    swept: Mapping[str, Any] | None,
    excluded: Sequence[str],
    root: str,
    seed: Any,
) -> str:
    """Name of the folder of one run of a study: ``lam=3-seed0``.

    Args:
        words, swept, excluded: as in `arm_name`.
        root: the folder of the study.
        seed: of the run.
    """
    name = arm_name(words, swept, excluded)
    earlier = arm_name(words, swept, excluded, names_others=False)
    return _kept(root, f"{name}-seed{seed}", f"{earlier}-seed{seed}")


def instruction_beside(system_prompt: str | None) -> str | None:
    """What the user turn of a mathematical problem adds to the problem.

    Args:
        system_prompt: what the system turn says, or None.

    Returns:
        "", nothing, if the system turn asks for a box already; None, the task's own sentence, else.
    """
    if system_prompt is not None and "\\boxed" in system_prompt:
        return ""
    return None


def arm_name(
    words: Sequence[str],
    swept: Mapping[str, Any] | None,
    excluded: Sequence[str],
    names_others: bool = True,
) -> str:
    """A sweep's arm: what the study sweeps, then other overrides; of many, what fits and a hash.

    Args:
        words: overrides of one run, ``["exploration.lam=0.3", "seed=1", "trainer.steps=9"]``.
        swept: hydra.sweeper.params, whose keys come first and by their last part.
        excluded: keys that are not named.
        names_others: whether something of other overrides is named when they are long. Earlier
            versions named the hash alone.

    Returns:
        ``lam=0.3``, ``lam=0.3-trainer.steps=9``, ``lam=0.3-steps=9-lr=0.1-1f0c22ab``; ``default``
        when nothing is left.
    """
    # what the study sweeps, and the rest
    swept_words: list[str] = []
    other_words: list[str] = []
    for word in words:
        if word.startswith("~"):
            continue
        key, value = word.lstrip("+").split("=", 1)
        if key in excluded or key.startswith("hydra."):
            continue
        if key in (swept or {}):
            swept_words.append(f"{key.rsplit('.', 1)[-1]}={value}")
        else:
            other_words.append(f"{key}={value}")

    # the rest is named where it is short
    others = ",".join(sorted(other_words))
    tag = cut_tag(others)
    if len(tag) > ARM_LENGTH:
        tag = _abridged(others, ARM_LENGTH) if names_others else f"-{_short_hash(others)}"

    # what is swept is named in any case
    of_study = ",".join(swept_words)
    head = run_tag(of_study) if names_others else cut_tag(of_study)
    return f"{head}{tag}".removeprefix("-") or "default"


def _short_hash(text: str) -> str:
    """Eight characters that tell texts apart in names."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_group(name: str) -> str:
    """Name by which tracking groups runs: ``signals-NAME`` in experiment=signals, else ``NAME``."""
    experiment = None
    if HydraConfig.initialized():
        experiment = HydraConfig.get().runtime.choices.get("experiment")

    # Hydra writes a choice of nothing as text
    if experiment in (None, "null"):
        return name
    return f"{experiment}-{name}"


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

    Args:
        run: folder of a run that is evaluated.
        samples: file of samples that are graded again.
        compare: folders of evaluations that are compared.
        model, benchmark: their names.
        overrides: what was typed, as Hydra joins it.
        absolute: for sweeps, because Hydra would put a relative folder under another one.
    """
    # beside what it is about
    root, head = Path("evals"), f"{model}-{benchmark}"
    if samples is not None and Path(samples).expanduser().is_file():
        root, head = Path(samples).expanduser().parent, "regraded"
    elif run is not None and Path(run).expanduser().is_dir():
        root, head = Path(run).expanduser() / "eval", benchmark

    # names hold no "=", so that they can be typed in an override
    typed = overrides.replace("benchmark.", "")
    name, earlier = run_tag(typed).replace("=", "-"), cut_tag(typed.replace("=", "-"))
    folder = root / _kept(root, f"{head}{name}", f"{head}{earlier}")
    if compare:
        folder = Path("evals") / compare_name(compare)
    return str(folder.resolve() if absolute else folder)


def compare_name(folders: Sequence[Any]) -> str:
    """Name of a comparison of evaluations: of what comes first, and a hash of all of them.

    Args:
        folders: of evaluations, ``runs/A/eval/math``; or lists of them, one a seed.
    """
    # of runs/A/eval/math the run says more than the benchmark
    parts: list[str] = []
    for one in folders:
        first = one if isinstance(one, str) else str(next(iter(one), ""))
        place = Path(first)
        if place.parent.name == "eval":
            place = place.parent.parent
        parts.append(_safe(place.name).replace("=", "-"))

    # two names at most, the rest as a number
    named = "-".join(parts[:2])[:TAG_LENGTH]
    more = f"-and-{len(parts) - 2}-more" if len(parts) > 2 else ""
    earlier = _short_hash(str(folders))
    return _kept("evals", f"compare-{named}{more}-{earlier}", f"compare-{earlier}")


def unnamed_settings(command: str, *, _root_: DictConfig) -> ListConfig:
    """Keys that the folder's name leaves out, for `hydra.job.config.override_dirname.exclude_keys`.

    Args:
        command: a key of `g2rl.runs.identity.FREE_SETTINGS`.
    """
    # a free node stands for all of its settings, of which only the names are needed
    nodes: dict[str, Any] = {}
    for key in free_keys(command, "name"):
        node = _root_.get(key)
        if isinstance(node, DictConfig):
            nodes[key] = dict.fromkeys(node)
    keys = unnamed_keys(command, nodes)

    # a run that is made longer keeps its folder, but arms of a sweep may differ in their length
    if OmegaConf.select(_root_, "hydra.mode") == RunMode.MULTIRUN and LENGTH in keys:
        keys.remove(LENGTH)
    return ListConfig(keys)


def sweep_name(words: Sequence[str]) -> str:
    """The folder of a sweep that is no experiment, made of what was typed.

    The same command has the same folder, and another sweep has another one. Settings that matter
    to no result are left out, so that a sweep may go on with more workers.
    """
    free = free_keys("train", "resume")
    named = [word for word in words if not is_under(word.lstrip("+~").split("=", 1)[0], free)]
    if any(word.startswith(f"{LENGTH}=") for word in words):
        named += [word for word in words if word.startswith(f"{LENGTH}=")]

    # a long name has what is swept first, in whole words, and a hash for the rest
    text = ",".join(named)
    swept = [word for word in named if is_swept(word.partition("=")[2])]
    long_tag = f"{whole_words(swept or named, TAG_LENGTH - 9)}-{_short_hash(text)}"
    tags: list[str] = []
    for tag in (run_tag(text), cut_tag(text)):
        tags.append(long_tag if len(tag) > TAG_LENGTH - 9 else tag)
    return _kept("runs", *(f"sweep{tag}" for tag in tags))


def is_swept(value: str) -> bool:
    """Whether a typed value stands for several: ``0,1`` and ``range(3)``, not ``[0,1]``."""
    outside = [at for at, depth in zip(value, depths(value), strict=True) if depth == 0]
    return "," in outside or "(" in outside


def whole_words(words: Sequence[str], length: int) -> str:
    """As many settings as fit, each by the last part of its key: ``-lam=0.1_1-seed=0_1``."""
    text = ""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        leaf = key.rpartition(".")[2]
        part = "-" + _safe(f"{leaf}={value}").rstrip("_")

        # a long one is left out, shorter ones behind it may fit
        if len(text) + len(part) <= length:
            text += part
    return text


def ks_within(ks: Sequence[int], samples: Any) -> ListConfig:
    """The k of pass@k that a benchmark has unless somebody says otherwise: those up to `samples`.

    Args:
        ks: of the benchmark's file.
        samples: what was asked for, perhaps no number, which is refused elsewhere.
    """
    if type(samples) is not int:
        return ListConfig(list(ks))
    return ListConfig([k for k in ks if k <= samples] or [1])


def model_name(source: str) -> str:
    """A short name for a model, from where it is loaded: its folder, or its id without the owner.

    ``Qwen/Qwen3-1.7B-Base`` is Qwen3-1.7B-Base; of ``runs/NAME/model`` it is NAME.
    """
    parts = [part for part in re.split(r"[/:]", source) if part not in ("", ".", "..", "~")]
    if len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return re.sub(r"[^\w.+-]+", "_", parts[-1]) if parts else "model"
