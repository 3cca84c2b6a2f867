"""What a run depends on and its configuration does not show: contents behind names.

The file `inputs.json` of a folder holds a fingerprint of each: the weights, the configuration and
the tokenizer of the model, the problems, what grades them, an adapter, an encoder. Work is
continued only with the same inputs, because a folder or a name on a hub may hold something else
tomorrow.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from g2rl.runs.files import write_json
from g2rl.runs.layout import RunFolder
from g2rl.types import Problem

log = logging.getLogger(__name__)

VERSIONS = "versions of grading packages"
"""The one input that is recorded in words."""
FORMAT = 2
"""Of inputs.json; it changes when a fingerprint is taken in another way."""
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.gguf")
CONFIGURATION = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "vocab*",
    "merges.txt",
    "tekken.json",
    "bpe.codes",
    "dict.txt",
    "emoji.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
)
ENCODER = (*WEIGHTS, *TOKENIZER, "*.json", "pytorch_model.bin")


class OtherInputsError(ValueError):
    """The inputs of work have changed under their names; nothing of it was touched."""


def files_digest(folder: Path, patterns: Iterable[str]) -> str | None:
    """A hash of the names and the whole contents of some files in a folder.

    Args:
        folder: of the files.
        patterns: of file names, or of names in a subfolder; a file that fits several of them counts
            once.

    Returns:
        SHA-256 in hexadecimal; None if no file fits.
    """
    # a file that fits several patterns counts once
    paths: set[Path] = set()
    for pattern in patterns:
        paths.update(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        return None

    # one file after the other, because weights may be larger than the memory
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def model_inputs(folder: Path, gguf_file: str | None = None) -> dict[str, str]:
    """Fingerprints of a model in a folder on disk.

    Args:
        folder: of the model; a name on a hub is no folder and has no fingerprints here.
        gguf_file: the only file of weights that is read, if it is a GGUF file.
    """
    if not folder.is_dir():
        return {}
    found = {
        "weights": files_digest(folder, (gguf_file,) if gguf_file else WEIGHTS),
        "model configuration": files_digest(folder, CONFIGURATION),
        "tokenizer": files_digest(folder, TOKENIZER),
    }
    return {name: digest for name, digest in found.items() if digest is not None}


def adapter_inputs(folder: Path) -> dict[str, str]:
    """The fingerprint of a LoRA adapter."""
    digest = files_digest(folder, ("adapter_config.json", "adapter_model.*"))
    return {} if digest is None else {"adapter": digest}


def encoder_inputs(encoder: Any) -> dict[str, str]:
    """The fingerprint of an encoder that was loaded from a folder or from a hub.

    Args:
        encoder: with an attribute `source`, the folder or the name, if it has weights of its own,
            and perhaps an attribute `revision`, the commit on the hub.
    """
    source = getattr(encoder, "source", None)
    revision = getattr(encoder, "revision", None)
    if source is None:
        return {}

    # on a hub a revision fixes every file
    if not Path(source).is_dir():
        return {} if revision is None else {"revision of the encoder": str(revision)}

    # weights and tokenizer may lie in subfolders
    folders = [Path(source), *(path for path in Path(source).iterdir() if path.is_dir())]
    digest = hashlib.sha256()
    for folder in sorted(folders):
        digest.update(f"{folder.name} {files_digest(folder, ENCODER)}\n".encode())
    return {"encoder": digest.hexdigest()}


def problems_digest(problems: Iterable[Problem]) -> str:
    """A hash of what is asked and what decides on an answer, in this order of the problems."""
    digest = hashlib.sha256()
    for problem in problems:
        meta = json.dumps(problem.meta, sort_keys=True, default=repr)

        # the zero byte keeps the end of one text apart from the start of the next
        for text in (problem.id, problem.prompt, problem.answer, meta):
            digest.update(text.encode("utf-8", "replace") + b"\0")
    return digest.hexdigest()


def grading_inputs(verifiers: Iterable[Any]) -> dict[str, str]:
    """What decides verdicts besides problems and settings: the user's own code, and packages.

    Args:
        verifiers: of the task and of the benchmarks, see `g2rl.tasks.grading.verifier`.

    Returns:
        The fingerprint of the files of reward functions (not of modules that they import), and the
        versions of packages in plain words; {} of verifiers that need neither.
    """
    files: set[Path] = set()
    packages: set[str] = set()
    for verifier in verifiers:
        packages.update(getattr(verifier, "packages", ()))
        own_files = getattr(verifier, "code_files", None)
        if own_files is not None:
            files.update(own_files())

    # files by their content alone, since a relative path names them in one run only
    found: dict[str, str] = {}
    if files:
        contents = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
        found["code of reward functions"] = hashlib.sha256("".join(contents).encode()).hexdigest()
    if packages:
        found[VERSIONS] = ", ".join(map(_with_version, sorted(packages)))
    return found


def _with_version(package: str) -> str:
    """The name of an installed package and its version."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} (not installed)"


def check_inputs(folder: Path, digests: Mapping[str, str], continued: bool) -> None:
    """Refuse to continue work whose inputs have changed; record them for the next time.

    Args:
        folder: of the run or the evaluation.
        digests: fingerprints as they are now, by what they are of.
        continued: the folder holds work that was begun earlier; of a new folder nothing is
            missing.

    Raises:
        OtherInputsError: naming every input that has changed.
    """
    place = RunFolder(folder).inputs
    before = _read(place)

    # inputs that were not recorded cannot be compared
    changed = [name for name in digests if name in before and before[name] != digests[name]]
    if changed:
        named: list[str] = []
        for name in changed:
            # versions can be read, fingerprints cannot
            is_readable = name == VERSIONS
            named.append(f"{name} ({before[name]}; now {digests[name]})" if is_readable else name)
        raise OtherInputsError(
            f"{folder} was begun with other {' and '.join(named)} under the same name: put back "
            "what it was begun with, start over with resume=never, or write elsewhere with "
            "hydra.run.dir=..."
        )
    unknown = [name for name in digests if name not in before]
    if continued and unknown:
        log.warning(
            "%s does not say with which inputs %s was begun (%s): what is there now is taken for "
            "the same",
            place.name,
            folder,
            ", ".join(unknown),
        )

    # what was recorded before stays on record, even if it is not used now
    write_json(place, {"format": FORMAT, **before, **digests})


def _read(place: Path) -> dict[str, str]:
    """The recorded fingerprints; {} of new work, and of runs that recorded none.

    Raises:
        ValueError: the file is there but cannot be read.
    """
    try:
        before = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place} cannot be read ({error}); start over with resume=never"
        ) from None
    if not isinstance(before, dict):
        raise ValueError(f"{place} holds no fingerprints; start over with resume=never")

    # earlier evaluations took other fingerprints, which cannot be compared
    return before if before.get("format") == FORMAT else {}
