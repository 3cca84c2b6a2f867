"""No file of a run is ever unpickled: payloads planted in each of them do not run.

A payload creates a file when it runs. The checksums of the manifest are made to fit again, because
whoever can plant a file can write them too.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import metadata

from g2rl.analysis.loaded import load_run
from g2rl.cli.jobs.report import report_run
from g2rl.policy.loading import ModelError, load
from g2rl.policy.lora import load_adapter
from g2rl.runs import shard_reader
from g2rl.runs import sharded_checkpoints as shards
from g2rl.runs.checkpoints import STATE, WEIGHTS, CheckpointError, Checkpoints
from g2rl.runs.shard_reader import PlainReader, UnsafeFileError

TINY = Path(load.__code__.co_filename).parents[1] / "assets" / "tiny"
STATES = {"updater": {"updates": 3, "moments": [torch.arange(3.0)]}, "signal": {}}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def plain_pickle(mark: Path) -> bytes:
    return pickle.dumps(Payload(mark))


def torch_file(mark: Path) -> bytes:
    """What torch.save writes: a zip file that holds a pickle."""
    out = io.BytesIO()
    torch.save({"step": 1, "model.weight": Payload(mark)}, out)
    return out.getvalue()


def legacy_torch_file(mark: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"step": 1, "w": Payload(mark)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


FORMS = [plain_pickle, torch_file, legacy_torch_file]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.mark.parametrize("form", FORMS)
def test_the_payloads_do_run_where_they_are_unpickled(
    form: Callable[[Path], bytes], mark: Path
) -> None:
    content = form(mark)
    if form is plain_pickle:
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert mark.exists()


def sharded_checkpoint(place: Path) -> Checkpoints:
    """A checkpoint as one process of parallel=fsdp would write it, of a small linear layer."""
    checkpoints = Checkpoints(place)
    checkpoints.save(1, nn.Linear(2, 2), STATES)
    folder = checkpoints.path(1)

    # the same weights as shards
    weights = {f"model.{name}": value for name, value in load_file(folder / WEIGHTS).items()}
    weights["state.updater.moments.0"] = torch.arange(3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(weights, storage_writer=dcp.FileSystemWriter(folder / shards.FOLDER), no_dist=True)
    (folder / WEIGHTS).unlink()
    state = torch.load(folder / STATE, weights_only=True)
    state["updater"]["moments"][0] = {shards.REF: "state.updater.moments.0"}
    torch.save(state, folder / STATE)
    seal(folder)
    return checkpoints


def whole_checkpoint(place: Path) -> Checkpoints:
    checkpoints = Checkpoints(place)
    checkpoints.save(1, nn.Linear(2, 2), STATES)
    return checkpoints


def seal(folder: Path) -> None:
    """Write a manifest that fits the files as they are."""
    files = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry = {"bytes": path.stat().st_size, "sha256": digest}
            files[str(path.relative_to(folder))] = entry
    manifest = {"format": 2, "step": 1, "score": None, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [whole_checkpoint, sharded_checkpoint])
def test_a_payload_in_any_file_of_a_checkpoint_is_refused_and_does_not_run(
    make: Callable[[Path], Checkpoints],
    form: Callable[[Path], bytes],
    tmp_path: Path,
    mark: Path,
) -> None:
    intact = make(tmp_path / "intact")
    state = intact.load_newest(nn.Linear(2, 2))
    assert state is not None
    assert torch.equal(state["updater"]["moments"][0], torch.arange(3.0))

    # one file after the other
    names = [path.relative_to(intact.path(1)) for path in intact.path(1).rglob("*")]
    files = [name for name in names if (intact.path(1) / name).is_file()]
    assert len(files) == (3 if make is whole_checkpoint else 4)
    for number, name in enumerate(files):
        place = tmp_path / f"planted{number}"
        shutil.copytree(tmp_path / "intact", place)
        folder = Checkpoints(place).path(1)
        (folder / name).write_bytes(form(mark))
        if name.name != "manifest.json":
            seal(folder)
        with pytest.raises((UnsafeFileError, CheckpointError)):
            Checkpoints(place).load_newest(nn.Linear(2, 2))
        assert not mark.exists(), name


def rewritten(checkpoints: Checkpoints, change: Callable[[metadata.Metadata], Any]) -> None:
    """Change the description of a sharded checkpoint and seal it again."""
    folder = checkpoints.path(1)
    place = folder / shards.FOLDER / shard_reader.DESCRIPTION
    found = pickle.loads(place.read_bytes())
    place.write_bytes(pickle.dumps(change(found) or found))
    seal(folder)


def test_an_object_in_the_place_of_a_tensor_is_refused(tmp_path: Path, mark: Path) -> None:
    # torch.distributed.checkpoint would pass these bytes to torch.load(weights_only=False)
    checkpoints = sharded_checkpoint(tmp_path / "run")

    def as_bytes(found: metadata.Metadata) -> None:
        found.state_dict_metadata["model.weight"] = metadata.BytesStorageMetadata()

    for file in (checkpoints.path(1) / shards.FOLDER).glob("*.distcp"):
        file.write_bytes(torch_file(mark))
    rewritten(checkpoints, as_bytes)
    with pytest.raises(UnsafeFileError, match="stored as an object"):
        checkpoints.load_newest(nn.Linear(2, 2))
    assert not mark.exists()


def test_a_description_cannot_point_elsewhere_or_ask_for_endless_memory(tmp_path: Path) -> None:
    def elsewhere(found: metadata.Metadata) -> None:
        next(iter(found.storage_data.values())).relative_path = "../../secret"

    def transformed(found: metadata.Metadata) -> None:
        next(iter(found.storage_data.values())).transform_descriptors = ["stream.zstd"]

    def huge(found: metadata.Metadata) -> None:
        entry = found.state_dict_metadata["state.updater.moments.0"]
        entry.size = torch.Size([1 << 50])  # type: ignore[union-attr]

    def no_description(found: metadata.Metadata) -> Any:
        return {"state_dict_metadata": found.state_dict_metadata}

    changes = {
        elsewhere: "secret",
        transformed: "transformed",
        huge: "bytes of tensors",
        no_description: "no description",
    }
    for number, (change, words) in enumerate(changes.items()):
        checkpoints = sharded_checkpoint(tmp_path / str(number))
        rewritten(checkpoints, change)
        with pytest.raises(UnsafeFileError, match=words):
            checkpoints.load_newest(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "torch._C._set_backcompat"],
)
def test_a_description_may_name_only_its_own_classes(name: str, tmp_path: Path) -> None:
    module, _, function = name.rpartition(".")
    code = b"\x80\x04" + f"c{module}\n{function}\n".encode() + b"."
    (tmp_path / ".metadata").write_bytes(code)
    with pytest.raises(UnsafeFileError, match=rf"asks for {name}"):
        PlainReader(tmp_path).read_metadata()


# --- files that no code of g2rl's asks for

STRAY = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "rng_state_0.pth",
    "training_args.bin",
    "trainer_state.pkl",
    "dataloader.pkl",
    "pytorch_model.bin",
    "dataset.joblib",
    "cache.pickle",
    "state.npy",
    "features.npz",
)


@pytest.mark.parametrize("form", [plain_pickle, torch_file])
def test_a_payload_beside_the_files_of_a_run_does_not_run(
    form: Callable[[Path], bytes], finished_run: Path, tmp_path: Path, mark: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    [*_, checkpoint] = sorted((run / "checkpoints").iterdir())
    for folder in (run, checkpoint, run / "model", run / "rollouts", run / "checkpoints"):
        for name in STRAY:
            (folder / name).write_bytes(form(mark))
        (folder / "objects.npy").write_bytes(object_array(mark))
    loaded = load(str(run / "model"), device="cpu")
    assert Checkpoints(run / "checkpoints").load_newest(loaded.model) is not None
    assert len(load_run(run).samples) > 0
    report_run(run)
    assert not mark.exists()


def object_array(mark: Path) -> bytes:
    """What numpy writes of an array of objects: a header and a pickle."""
    out = io.BytesIO()
    np.save(out, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    return out.getvalue()


UNPICKLING = {
    "pickle": {"load", "loads", "Unpickler"},
    "cPickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "np": {"load"},
    "numpy": {"load"},
    "pd": {"read_pickle"},
    "pandas": {"read_pickle"},
    "yaml": {"load", "unsafe_load", "full_load", "load_all"},
    "builtins": {"eval", "exec"},
}
"""Functions that run what a file says, by module."""


def test_no_module_unpickles() -> None:
    package = Path(load.__code__.co_filename).parents[1]
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            where = f"{path.relative_to(package)}: {ast.unparse(node.func)}"
            match node.func:
                case ast.Name(id="eval" | "exec"):
                    found.add(where)
                case ast.Attribute(value=ast.Name(id=module), attr=name):
                    if name in UNPICKLING.get(module, ()):
                        found.add(where)
                    words = {word.arg: word.value for word in node.keywords}
                    is_plain = isinstance(words.get("weights_only"), ast.Constant)
                    if (module, name) == ("torch", "load") and not is_plain:
                        found.add(where)
    assert not found


# --- exported models and adapters


def exported_tiny(place: Path) -> Path:
    shutil.copytree(TINY, place)
    return place


def test_weights_that_are_pickles_are_refused(tmp_path: Path, mark: Path) -> None:
    folder = exported_tiny(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    # alone, in parts, and named by an index of safetensors; each of them would load
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        load(str(folder), device="cpu")
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(ModelError, match=r"pytorch_model-00001-of-00001\.bin is a pickle"):
        load(str(folder), device="cpu")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "weights.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"weights\.bin is a pickle"):
        load(str(folder), device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_payload_in_any_file_of_a_model_does_not_run(
    form: Callable[[Path], bytes], tmp_path: Path, mark: Path
) -> None:
    for name in [path.name for path in TINY.iterdir()]:
        folder = exported_tiny(tmp_path / name)
        (folder / name).write_bytes(form(mark))
        # files that only help to generate may be passed over
        with contextlib.suppress(ModelError):
            load(str(folder), device="cpu")
        assert not mark.exists(), name


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path: Path, mark: Path) -> None:
    pytest.importorskip("peft")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(torch_file(mark))
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        load_adapter(load("builtin:tiny", device="cpu").model, tmp_path)
    assert not mark.exists()
