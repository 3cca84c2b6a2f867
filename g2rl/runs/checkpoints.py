"""Checkpoints to resume from, and the exported model.

A checkpoint is a folder `step_000050/` with model.safetensors, training.pt (optimizer, schedule,
signal state; read with weights_only) and manifest.json (sizes, SHA-256, held-out score). It appears
whole or not at all; a damaged one is named and skipped for the one before.

Under parallel=fsdp (format 2) weights and moments lie in `sharded/` instead, see
`g2rl.runs.sharded_checkpoints`. Either kind is read by any number of processes, sharded or not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging as transformers_logging

from g2rl.policy.lora import has_lora, save_lora
from g2rl.policy.weights import weights_to_keep
from g2rl.runs import sharded_checkpoints as shards
from g2rl.runs.files import atomic_folder, write_json
from g2rl.runs.layout import step_name
from g2rl.types import Tokenizer
from g2rl.world import World

log = logging.getLogger(__name__)
_NAME = re.compile(r"step_(\d{6,})")


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the run, or cannot be read."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they live.
        keep: how many of the newest to keep.
        keep_best: keep the one with the highest score too, however old.
        world: the ranks that write and read together; all of them call `save` and `load_newest`.
    """

    def __init__(
        self, folder: Path, keep: int = 2, keep_best: bool = True, world: World | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"trainer.keep_checkpoints must be >= 1, got {keep}")
        self.folder, self.keep, self.keep_best = folder, keep, keep_best
        self.world = world or World()

    def steps(self) -> list[int]:
        """Completed steps of the checkpoints on disk, ascending."""
        if not self.folder.is_dir():
            return []
        steps: list[int] = []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                steps.append(int(match[1]))
        return sorted(steps)

    def path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder / step_name(step)

    def save(
        self, step: int, model: nn.Module, state: Mapping[str, Any], score: float | None = None
    ) -> Path:
        """Write the checkpoint after `step` completed steps, then drop old ones.

        The newest `keep` stay, and the `best`. One of a later step than this, left by a run that
        had to go back over damage, does not count and is overwritten when its step comes.
        """
        # weights and state, sharded or whole
        target = self.path(step)
        if shards.is_sharded(model):
            self._save_sharded(target, step, model, state, score)
        else:
            with atomic_folder(target) as folder:
                weights = {name: t.contiguous() for name, t in weights_to_keep(model).items()}
                save_file(weights, folder / "model.safetensors")
                _seal(folder, 1, step, state, score, sorted(folder.iterdir()))

        # one process cleans up
        if self.world.first:
            self._drop_old(step)
        return target

    def _save_sharded(
        self,
        target: Path,
        step: int,
        model: nn.Module,
        state: Mapping[str, Any],
        score: float | None,
    ) -> None:
        """Every rank writes its part aside; the first makes the folder and gives it its name at the
        end."""
        with ExitStack() as stack:
            # a folder of the first rank's making
            folder = self.world.from_first(lambda: stack.enter_context(atomic_folder(target)))

            # what every rank has written, with checksums
            rest = shards.write(folder, model, state)
            own = shards.own_files(folder, self.world)
            parts = self.world.gather(shards.entries(folder, own, _digest))
            if self.world.first:
                files: dict[str, Any] = {}
                for files_of_rank in parts:
                    files |= files_of_rank
                _seal(folder, 2, step, rest, score, [], files)
        self.world.barrier()

    def _drop_old(self, step: int) -> None:
        """Remove what `save` does not keep."""
        steps = [other for other in self.steps() if other <= step]
        steps_to_keep = set(steps[-self.keep :])
        best = self.best()
        if self.keep_best and best is not None:
            steps_to_keep.add(best)
        for old in steps:
            if old not in steps_to_keep:
                shutil.rmtree(self.path(old))

    def best(self) -> int | None:
        """Step of the checkpoint with the highest held-out score, the first among equals; None
        without."""
        scores: dict[int, float] = {}
        for step in self.steps():
            score = self._manifest(step).get("score")
            if score is not None:
                scores[step] = score
        return max(scores, key=lambda step: (scores[step], -step), default=None)

    def _manifest(self, step: int) -> dict[str, Any]:
        """The manifest of a checkpoint; {} when it cannot be read."""
        try:
            return dict(json.loads((self.path(step) / "manifest.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def load_newest(self, model: nn.Module) -> dict[str, Any] | None:
        """Load weights of the newest intact checkpoint into the model and return its training
        state.

        Returns None when there is none. Damaged ones are reported and skipped.

        Raises:
            CheckpointError: when checkpoints exist but none of them is intact, or the weights do
            not fit.
        """
        # the newest one that is intact
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
        """What is wrong with a checkpoint on disk; None when it is intact."""
        # every file of the manifest, by size and then by checksum
        folder = self.path(step)
        files = self._manifest(step).get("files")
        if not isinstance(files, dict):
            return "manifest.json is missing or cannot be read"
        for name, entry in files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return f"{name} is missing or has another size"
            if _digest(path) != entry["sha256"]:
                return f"{name} has another checksum"
        return None

    def _load(self, step: int, model: nn.Module) -> dict[str, Any]:
        # tensors only: a pickle is refused
        state = torch.load(self.path(step) / "training.pt", weights_only=True, map_location="cpu")
        if (self.path(step) / shards.FOLDER).is_dir():
            try:
                return shards.read(self.path(step), model, state, self.world)
            except KeyError as error:
                raise CheckpointError(
                    f"{self.path(step)} is of another model: {error} differs"
                ) from error

        # a checkpoint of whole weights
        weights = load_file(self.path(step) / "model.safetensors")
        if shards.is_sharded(model):
            missing, unexpected = shards.fill(model, weights)
        else:
            missing, unexpected = map(set, model.load_state_dict(weights, strict=False))

        # second names of tied weights, and frozen weights, are not in the file
        shared = set(model.state_dict()) - set(weights_to_keep(model))
        if unexpected or missing - shared:
            raise CheckpointError(
                f"{self.path(step)} is of another model: missing {sorted(missing - shared)[:3]}, "
                f"unexpected {sorted(unexpected)[:3]}"
            )
        return state


def _seal(
    folder: Path,
    kind: int,
    step: int,
    state: Mapping[str, Any],
    score: float | None,
    paths: list[Path],
    files: Mapping[str, Any] | None = None,
) -> None:
    """Write training.pt and then the manifest over it, `paths` and the `files` whose entries are
    known."""
    with (folder / "training.pt").open("wb") as out:
        torch.save({**state, "step": step}, out)

    # the manifest is written last
    paths = [*paths, folder / "training.pt"]
    all_files = {**(files or {}), **shards.entries(folder, paths, _digest)}
    manifest = {"format": kind, "step": step, "score": score, "files": all_files}
    write_json(folder / "manifest.json", manifest)


def export_model(
    model: Any, tokenizer: Tokenizer, stop_ids: list[int], target: Path, lora_export: str = "merged"
) -> Path:
    """Write the policy in Hugging Face format, with the stop tokens that training used."""
    # the stop tokens that training used
    transformers_logging.disable_progress_bar()
    model.generation_config.eos_token_id = stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)
    with atomic_folder(target) as folder:
        if has_lora(model):
            save_lora(model, folder, lora_export)
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target


def _digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
