"""Every notebook runs from top to bottom under this interpreter, draws, and is kept without
outputs."""

from __future__ import annotations

import ast
import base64
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import nbformat
import pandas as pd
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tests.support import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = {
    "training_dynamics": 2,
    "gradient_geometry": 5,
    "lambda_ablation": 2,
    "fidelity": 4,
    "read_a_run": 1,
}
"""Each with the number of figures it shows."""
SECONDS = 120  # a notebook may take that long beside other work; here it is a few
KERNEL = "g2rl-tests"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks, so that their figures land there."""
    copy = tmp_path_factory.mktemp("notebooks") / "notebooks"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("figures", ".ipynb_checkpoints"))
    return copy


@pytest.fixture(scope="module")
def kernel(place: Path) -> Iterator[KernelManager]:
    """A kernel of the running interpreter; an installed `python3` may be of another one.

    All notebooks run in it, as its imports take longer than most of them; each begins without the
    names of the one before.
    """
    folder = place.parent / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": KERNEL,
        "language": "python",
        "env": {"OMP_NUM_THREADS": "1"},
    }
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder.parent.parent))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(place.parent / "runtime"))
        patch.setenv("IPYTHONDIR", str(place.parent / "ipython"))
        patch.setenv("G2RL_RUN", str(small_run(place.parent / "run")))
        patch.delenv("MPLBACKEND", raising=False)  # the kernel chooses its own
        manager = KernelManager(kernel_name=KERNEL)
        manager.start_kernel(cwd=str(place))
        yield manager
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_its_figures(
    name: str, place: Path, kernel: KernelManager
) -> None:
    notebook = nbformat.read(place / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; sys.executable"))
    started = time.monotonic()
    client = NotebookClient(notebook, km=kernel, timeout=SECONDS)
    client.execute()  # raises the error of a cell
    assert time.monotonic() - started < SECONDS
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not [output for output in outputs if output.output_type in ("error", "stream")], (
        "nothing is said"
    )
    shown = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    tables = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not [text for text in tables if "<lambda" in text], "a column without a name"
    assert len(shown) == NOTEBOOKS[name]
    for text in shown:
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(text)))
        assert pixels[..., :3].std() > 0.02, "a blank figure"
    assert ast.literal_eval(outputs[-1]["data"]["text/plain"]) == sys.executable


def small_run(folder: Path) -> Path:
    """What `read_a_run` reads of a run, from the responses that ship."""
    if folder.is_dir():
        return folder
    for name in ("geometry", "probe", "rollouts"):
        (folder / name).mkdir(parents=True)
    rows = [
        {"step": step, "train/accuracy": 0.1 * step, "eval/countdown/pass@1": 0.2}
        for step in range(3)
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (folder / "config.yaml").write_text("{trainer: {steps: 2}, exploration: {}, seed: 0}")
    responses = pd.read_parquet(FOLDER / "data" / "geometry" / "start" / "responses.parquet")
    pairs = pd.read_parquet(FOLDER / "data" / "geometry" / "start" / "pairs.parquet")
    for step in (1, 2):
        file = f"step_{step:06d}.parquet"
        responses.to_parquet(folder / "rollouts" / file)
        measured = responses[["problem", "sample", "correct"]].assign(
            step=step, nu=0.1 * step, reward=1.0
        )
        measured.to_parquet(folder / "geometry" / file)
        pairs[["first", "second", "cosine", "pair"]].to_parquet(folder / "probe" / file)
    return folder


def test_every_notebook_is_tried() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_thin_and_kept_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], "clear the outputs: they are large, and differ every time"
            assert cell.execution_count is None
            tree = ast.parse(cell.source)
            made = [
                node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
            assert not made, "logic belongs in g2rl.analysis"
            assert len(cell.source.splitlines()) <= 20


def test_the_shipped_data_is_small_and_names_no_machine() -> None:
    files = [path for path in (FOLDER / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    for path in files:
        if path.suffix == ".json":
            assert "after /" not in path.read_text(encoding="utf-8"), path
    for name in ("signals", "lambda"):
        runs = pd.read_parquet(FOLDER / "data" / f"{name}.parquet")["run"]
        assert not runs.str.startswith("/").any()
