"""Checkpoints to resume from, and the exported model.

A checkpoint is a folder `step_000050/` that appears whole or not at all:

    model.safetensors   the weights
    training.pt         states of optimizer, schedule and signal; only tensors and plain data
    manifest.json       size and SHA-256 of every other file, held-out score

Under parallel=fsdp (format 2) weights and moments lie in `sharded/` instead, see
`g2rl.runs.sharded_checkpoints`. Either kind is read by any number of processes, sharded or not. A
damaged checkpoint is named and skipped for the one before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from g2rl.policy.lora import has_lora, save_lora, share_in_export
from g2rl.policy.weights import weights_to_keep
from g2rl.runs import sharded_checkpoints as shards
from g2rl.runs.files import atomic_folder, remove, write_json
from g2rl.runs.layout import CHECKPOINT_MANIFEST, step_name, step_number
from g2rl.runs.shard_reader import DESCRIPTION, UnsafeFileError, first_line
from g2rl.types import Tokenizer
from g2rl.world import World

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
STATE = "training.pt"


LEAST_SHARE = 0.9
"""Of what adapters have learnt, the least that an export with merged weights must hold."""


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the run, or cannot be read."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they live.
        keep: how many of the newest to keep.
        keep_best: keep the one with the highest score too, however old.
        world: the ranks that write and read together; all of them call `save` and `load_newest`.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(
        self, folder: Path, keep: int = 2, keep_best: bool = True, world: World | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"trainer.keep_checkpoints must be >= 1, got {keep}")
        self.folder = folder
        self.keep = keep
        self.keep_best = keep_best
        self.world = world or World()

    def steps(self) -> list[int]:
        """Completed steps of the checkpoints on disk, ascending."""
        if not self.folder.is_dir():
            return []
        steps: list[int] = []
        for path in self.folder.iterdir():
            step = step_number(path.name)
            if step is not None:
                steps.append(step)
        return sorted(steps)

    def path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder / step_name(step)

    def save(
        self, step: int, model: nn.Module, state: Mapping[str, Any], score: float | None = None
    ) -> Path:
        """Write the checkpoint after `step` completed steps, then drop old ones.

        The newest `keep` stay, and the `best`. A checkpoint of a later step, left by a run that had
        to go back over damage, does not count; it is overwritten when its step comes.

        Args:
            step: completed steps.
            model: its trained weights and buffers are stored.
            state: of everything else that the run continues with; tensors and plain data.
            score: held-out score of these weights, if they were evaluated.

        Returns:
            The checkpoint's folder.
        """
        target = self.path(step)
        manifest: dict[str, Any] = {"format": 1, "step": step, "score": score, "files": {}}
        if shards.is_sharded(model):
            self._save_sharded(target, {**manifest, "format": 2}, model, state)
        else:
            with atomic_folder(target) as folder:
                weights: dict[str, Tensor] = {}
                for name, tensor in weights_to_keep(model).items():
                    weights[name] = tensor.contiguous()
                save_file(weights, folder / WEIGHTS)
                _seal(folder, manifest, state, [folder / WEIGHTS])

        # one process cleans up
        if self.world.first:
            self._drop_old(step)
        return target

    def _save_sharded(
        self, target: Path, manifest: dict[str, Any], model: nn.Module, state: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint to which every rank adds the files of its shards."""
        with ExitStack() as stack:
            # the first rank makes the folder, and names it when it leaves the stack
            folder = self.world.from_first(lambda: stack.enter_context(atomic_folder(target)))

            # every rank writes its shards and computes their checksums
            unsharded_state = shards.write(folder, model, state)
            own_entries = _entries(folder, shards.files_of_rank(folder, self.world))

            # the first rank joins the checksums and writes the rest
            entries_of_ranks = self.world.gather(own_entries)
            if self.world.first:
                for entries in entries_of_ranks:
                    manifest["files"] = {**manifest["files"], **entries}
                _seal(folder, manifest, unsharded_state, [])
        self.world.barrier()

    def _drop_old(self, step: int) -> None:
        """Remove the checkpoints that do not stay after the one of `step`, see `save`."""
        steps = [other for other in self.steps() if other <= step]

        # the newest ones, and the best where it is to stay
        steps_to_keep = set(steps[-self.keep :])
        best = self.best()
        if self.keep_best and best is not None:
            steps_to_keep.add(best)

        for old in steps:
            if old not in steps_to_keep:
                remove(self.path(old))

    def best(self) -> int | None:
        """Step of the checkpoint with the highest held-out score, the earliest among equals.

        None if no checkpoint has a score.
        """
        scores: dict[int, float] = {}
        for step in self.steps():
            score = self._manifest(step).get("score")

            # a damaged manifest may say anything
            if isinstance(score, int | float) and math.isfinite(score):
                scores[step] = score

        # steps ascend, and max takes the first among equals
        return max(scores, key=lambda step: scores[step], default=None)

    def _manifest(self, step: int) -> dict[str, Any]:
        """The manifest of a checkpoint; {} when it cannot be read."""
        try:
            text = (self.path(step) / CHECKPOINT_MANIFEST).read_text(encoding="utf-8")
            return dict(json.loads(text))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def load_newest(self, model: nn.Module) -> dict[str, Any] | None:
        """Load the weights of the newest intact checkpoint; damaged ones are reported and skipped.

        Returns:
            Its training state, with the number of completed steps as `step`; None if there is no
            checkpoint.

        Raises:
            CheckpointError: checkpoints exist but none of them is intact, or the weights do not
                fit the model.
        """
        # one rank looks, so that all load the same
        steps = self.world.from_first(self.steps)
        for step in reversed(steps):
            problem = self.world.from_first(lambda step=step: self.damage(step))  # type: ignore[misc]
            if problem is None:
                return self._load(step, model)
            log.warning(
                "checkpoint %s is damaged (%s): trying the one before", self.path(step), problem
            )

        # there are some, but none of them can be used
        if steps:
            raise CheckpointError(
                f"no intact checkpoint in {self.folder}; remove the folder to start afresh"
            )
        return None

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint on disk, in words; None if it is intact."""
        folder = self.path(step)
        files = self._manifest(step).get("files")
        if not isinstance(files, dict) or STATE not in files:
            return f"{CHECKPOINT_MANIFEST} is missing or cannot be read"
        if WEIGHTS not in files and f"{shards.FOLDER}/{DESCRIPTION}" not in files:
            return f"{CHECKPOINT_MANIFEST} names no weights"

        # sizes first, because a checksum reads the whole file
        for name, entry in files.items():
            path = folder / name
            if not isinstance(entry, dict):
                return f"{CHECKPOINT_MANIFEST} says nothing of {name}"
            if not path.is_file() or path.stat().st_size != entry.get("bytes"):
                return f"{name} is missing or has another size"
            if _digest(path) != entry.get("sha256"):
                return f"{name} has another checksum"
        return None

    def _load(self, step: int, model: nn.Module) -> dict[str, Any]:
        """Load the weights of an intact checkpoint and return its training state."""
        folder = self.path(step)

        # only tensors and plain data: a pickle could run code
        state = _plain_state(folder / STATE)
        if state["step"] != step:
            raise CheckpointError(f"{folder / STATE} is of another step, {state['step']!r}")

        # sharded weights
        if f"{shards.FOLDER}/{DESCRIPTION}" in self._manifest(step)["files"]:
            try:
                return shards.read(folder, model, state, self.world)
            except KeyError as error:
                raise CheckpointError(f"{folder} is of another model: {error} differs") from error

        # whole weights, into a whole or a sharded model
        try:
            weights = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise UnsafeFileError(f"{folder / WEIGHTS} holds no safetensors: {error}") from error
        if shards.is_sharded(model):
            missing, unexpected = shards.fill(model, weights)
        else:
            missing, unexpected = map(set, model.load_state_dict(weights, strict=False))

        # second names of tied weights, and frozen weights, are not in the file
        missing -= set(model.state_dict()) - set(weights_to_keep(model))
        if unexpected or missing:
            raise CheckpointError(
                f"{folder} is of another model: missing {sorted(missing)[:3]}, "
                f"unexpected {sorted(unexpected)[:3]}"
            )
        return state


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights of one checkpoint into a model that was built as the run built its own.

    Args:
        folder: of the checkpoint, ``RUN/checkpoints/step_000040``.
        model: unsharded, with the adapters that the run trained.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of another model.
    """
    # its name is its step
    step = step_number(folder.name)
    checkpoints = Checkpoints(folder.parent)
    if step is None or not folder.is_dir():
        raise CheckpointError(f"{folder} is no checkpoint of a run")
    # every checksum, because an evaluation says nothing of what it was read from
    problem = checkpoints.damage(step)
    if problem is not None:
        raise CheckpointError(f"checkpoint {folder} is damaged ({problem})")
    checkpoints._load(step, model)


def find_checkpoint(folder: Path, which: str | int) -> Path:
    """The folder of one checkpoint among those of a run.

    Args:
        folder: that holds the run's checkpoints.
        which: best (by held-out pass@1), newest, or the number of a step.

    Raises:
        CheckpointError: there is none; the message lists the steps that there are.
    """
    checkpoints = Checkpoints(folder)
    steps = checkpoints.steps()

    # by its score, its age or its number
    step: int | None = None
    if which == "best":
        step = checkpoints.best()
    elif which == "newest":
        step = steps[-1] if steps else None
    elif str(which).isdigit():
        step = int(which)

    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(
            f"checkpoint={which}: {folder} has no such checkpoint; name best, newest or a step, of "
            f"which there are {there} (trainer.keep_checkpoints and trainer.keep_best decide)"
        )
    return checkpoints.path(step)


def _plain_state(place: Path) -> dict[str, Any]:
    """The training state in a file, of which nothing is run.

    Raises:
        UnsafeFileError: the file asks for more than tensors and plain data.
    """
    try:
        state = torch.load(place, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # a hostile or damaged pickle may raise anything
        raise UnsafeFileError(f"{place} is not read: {first_line(error)}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise UnsafeFileError(f"{place} holds no training state")
    return state


def _seal(
    folder: Path, manifest: Mapping[str, Any], state: Mapping[str, Any], paths: list[Path]
) -> None:
    """Write the training state and, last of all, the manifest.

    Args:
        folder: of the checkpoint.
        manifest: with the entries of the files that are not in `paths`.
        state: training state; it is stored with the manifest's `step`.
        paths: files of the checkpoint that have no entry in the manifest yet.
    """
    with (folder / STATE).open("wb") as out:
        torch.save({**state, "step": manifest["step"]}, out)

    # what was listed before is kept, and these files are added
    entries = _entries(folder, [*paths, folder / STATE])
    files = {**manifest["files"], **entries}
    write_json(folder / CHECKPOINT_MANIFEST, {**manifest, "files": files})


def _entries(folder: Path, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Size and checksum of files inside a checkpoint, as its manifest holds them, by name."""
    entry_of_file: dict[str, dict[str, Any]] = {}
    for path in paths:
        name = str(path.relative_to(folder))
        entry_of_file[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    return entry_of_file


def _digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def export_model(
    model: Any, tokenizer: Tokenizer, stop_ids: list[int], target: Path, lora_export: str = "merged"
) -> Path:
    """Write the policy in Hugging Face format, whole or not at all.

    Args:
        model: of transformers, perhaps with adapters.
        tokenizer: written beside the model.
        stop_ids: the stop tokens that training used; generation will stop at them too.
        target: the folder to make.
        lora_export: merged or adapter, what is written of a model with adapters.
    """
    transformers_logging.disable_progress_bar()

    # a single stop token is written as a number, as most models have it
    if len(stop_ids) == 1:
        model.generation_config.eos_token_id = stop_ids[0]
    else:
        model.generation_config.eos_token_id = list(stop_ids)

    with atomic_folder(target) as folder:
        if has_lora(model):
            save_lora(model, folder, lora_export)
            if lora_export == "merged":
                _check_export(model, folder)
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target


def _check_export(model: Any, folder: Path) -> None:
    """Measure what of the training is in an export with merged adapters.

    Raises:
        CheckpointError: so much of it was rounded away that the export is another policy.
    """
    share = share_in_export(model, folder)
    log.info("the export holds %.2f %% of what the adapters have learnt", 100 * share)
    if not share > LEAST_SHARE:
        raise CheckpointError(
            f"merged into the weights, {share:.0%} of what the adapters have learnt is left, "
            "because the rest is below the resolution of float32; set model.lora.export=adapter "
            "and continue the run (resume=auto)"
        )
