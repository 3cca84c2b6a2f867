"""The first half hour on a GPU, step by step; every function runs on a CPU too, on a small scale.

Runs are commands of their own, so that their memory is free again and stop signals are real. The
model is the built-in one with other sizes and random weights, because no hub need be in reach.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head import head_pass
from tests import commands
from tests.support import ROOT, metric_rows, unpacked_wheel

PACKAGES = ("torch", "transformers", "vllm", "peft", "trl", "liger_kernel", "triton")
PLAN_LINE = re.compile(r"^  (always|sampling|scoring|update|optimizer step) +([\d.]+) ", re.M)
HALF_HOUR = 1800.0


@dataclass(slots=True, frozen=True)
class Layout:
    """Sizes of a model of Qwen3's layout."""

    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    def words(self) -> list[str]:
        """What makes the built-in model this large, with random weights."""
        kinds = ",".join(["full_attention"] * self.layers)
        sizes = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 16_384,
            "tie_word_embeddings": "true",
        }
        words = ["model.random_init=true", f"+model.overrides.layer_types=[{kinds}]"]
        for name, value in sizes.items():
            words.append(f"+model.overrides.{name}={value}")
        return words


QWEN3_1_7B = Layout(28, 2048, 6144, 16, 8, 128, 151_936)
SMALL = Layout(2, 64, 128, 4, 2, 16, 300)


def versions(device: torch.device) -> dict[str, str]:
    """What is installed, and on what it runs."""
    found = {"python": platform.python_version(), "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = f"{properties.name}, {properties.total_memory >> 20} MiB"
        found["cuda"] = str(torch.version.cuda)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is not None:
            found[package] = importlib.metadata.version(package.replace("_", "-"))
    return found


def wheel_trains(folder: Path, device: torch.device) -> str:
    """Build the wheel, lay it out beside what is installed, and train five steps from it.

    Args:
        folder: gets the wheel, its content and the run.
        device: to train on.

    Returns:
        Which g2rl the run has imported, as its version and the place of its package.

    Raises:
        subprocess.CalledProcessError: the wheel cannot be built, or does not train.
    """
    site = unpacked_wheel(folder)

    # no other folder of this checkout is on the path, and the command stands in another one
    program = (
        "import g2rl, sys; from g2rl.cli.train import main; "
        "print(g2rl.__version__, g2rl.__file__); sys.exit(main())"
    )
    run_words = _words(folder / "run", device, *TINY)
    done = subprocess.run(
        [sys.executable, "-c", program, *run_words],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=HALF_HOUR,
    )
    return done.stdout.splitlines()[0]


def trained(folder: Path, device: torch.device, *words: str) -> str:
    """Run g2rl-train to its end in a process of its own; returns what it printed.

    Raises:
        AssertionError: it did not end with 0, or torch's process group was left behind.
    """
    done = commands.run(
        ["-m", "g2rl.cli.train", *_words(folder, device, *words)],
        folder.parent,
        fresh=device.type == "cuda",
        timeout=HALF_HOUR,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "destroy_process_group() was not called" not in done.stderr
    return done.stdout + done.stderr


def _words(folder: Path, device: torch.device, *words: str) -> list[str]:
    """Arguments that all runs share."""
    fixed = ("tracking=local", "report=false", "trainer.shown_samples=0", f"hydra.run.dir={folder}")
    return [*fixed, f"model.device={device.type}", *words]


TINY = (
    "experiment=smoke",
    "trainer.steps=5",
    "trainer.eval_every=0",
    "trainer.probe_problems=0",
    "task.max_response_tokens=24",
    "benchmark.problems=8",
    "benchmark.max_tokens=8",
)
"""Five steps of the built-in policy, under g2rl if nothing else is said."""


def shaped(layout: Layout, prompts: int, group: int, tokens: int, steps: int = 2) -> list[str]:
    """A few steps of a model of some layout in mixed precision, with a profile and hardly any
    evaluation."""
    return [
        *layout.words(),
        "model.compute_dtype=bfloat16",
        "model.gradient_checkpointing=true",
        f"trainer.steps={steps}",
        f"trainer.prompts_per_step={prompts}",
        f"trainer.group_size={group}",
        f"task.max_response_tokens={tokens}",
        "trainer.eval_every=0",
        "trainer.probe_problems=0",
        "trainer.tables_every=0",
        "benchmark.problems=1",
        "benchmark.samples=1",
        "benchmark.ks=[1]",
        "benchmark.max_tokens=16",
        "optimizer.lr=5e-7",
        f"optimizer.micro_batch_tokens={max(2048, tokens + 128)}",
        "exploration=g2rl",
        "trainer.checkpoint_every=100",
        "profile=true",
        "plan=print",
    ]


def planned_gib(printed: str) -> dict[str, float]:
    """The memory plan that a run has printed, GiB by phase."""
    return {name: float(size) for name, size in PLAN_LINE.findall(printed)}


def measured_gib(folder: Path) -> dict[str, float]:
    """The peaks of memory that its profile found, GiB by stage."""
    text = (folder / "profile" / "stages.json").read_text(encoding="utf-8")
    stages = json.loads(text)["stages"]
    peaks: dict[str, float] = {}
    for name, stage in stages.items():
        if stage["peak_bytes"] is not None:
            peaks[name] = stage["peak_bytes"] / (1 << 30)
    return peaks


def largest_gap(ours: Path, theirs: Path, names: tuple[str, ...], step: int) -> dict[str, float]:
    """By how much two runs differ in some metrics of one step."""
    mine, other = (metric_rows(folder)[step] for folder in (ours, theirs))
    return {name: abs(mine[name] - other[name]) for name in names if name in mine and name in other}


def logit_spread(hidden_TD: Tensor, weight_VD: Tensor) -> dict[str, float]:
    """What rounding logits to bfloat16 would do to log-probs, and what our head's products do.

    Returns:
        Standard deviations over tokens, in nats, against float64 of the same bfloat16 inputs.
    """
    hidden, weight = hidden_TD.bfloat16(), weight_VD.bfloat16()
    targets = torch.arange(hidden.shape[0], device=hidden.device) % weight.shape[0]
    exact = (hidden.double() @ weight.double().T).log_softmax(-1)
    rounded = (hidden @ weight.T).double().log_softmax(-1)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    ours = head_pass(hidden, weight, targets).logps_T.double()
    return {
        "rounded logits": float((rounded - exact)[rows, targets].std()),
        "our head": float((ours - exact[rows, targets]).std()),
    }


def stopped_and_continued(folder: Path, device: torch.device, *words: str) -> list[dict[str, Any]]:
    """Stop a run by SIGTERM after its second step, continue it, and return its rows.

    Raises:
        AssertionError: it did not give way with code 75.
    """
    arguments = ["-m", "g2rl.cli.train", *_words(folder, device, *words)]
    running = commands.start(arguments, folder.parent, fresh=device.type == "cuda")
    wait_for_row(folder, 2, running)
    running.send_signal(signal.SIGTERM)
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 75, printed[-3000:]
    trained(folder, device, *words)
    return metric_rows(folder)


def wait_for_row(folder: Path, step: int, running: commands.Running) -> None:
    """Return once a run has written the row of a step.

    Raises:
        AssertionError: the run has ended before, or takes more than ten minutes.
    """
    file = folder / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not file.is_file() or file.read_text(encoding="utf-8").count("\n") <= step:
        assert running.returncode is None if isinstance(running, commands.Command) else True
        assert time.monotonic() < deadline, "no row in ten minutes"
        time.sleep(0.05)


def seconds_of(call: Callable[[], Any], device: torch.device, repeats: int = 5) -> float:
    """The median time of a call, after one that warms up."""
    found: list[float] = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return sorted(found[1:])[repeats // 2]


def head_ratio(
    device: torch.device, tokens: int, width: int, vocabulary: int
) -> Mapping[str, float]:
    """Time of our head's forward and backward against whole logits, and against Liger's fused loss
    where it is installed; below 1 ours is faster."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=rng).to(device).requires_grad_()
    weight = (0.02 * torch.randn(vocabulary, width, generator=rng)).to(device).requires_grad_()
    targets = (torch.arange(tokens) * 31 % vocabulary).to(device)

    def ours() -> None:
        output = head_pass(hidden, weight, targets, objective=lambda _, logps, __: -logps.mean())
        loss = -output.logps_T.mean() if output.loss is None else output.loss
        loss.backward()

    def whole_logits() -> None:
        torch.nn.functional.cross_entropy(hidden @ weight.T, targets).backward()

    mine = seconds_of(ours, device)
    found = {"whole logits": mine / seconds_of(whole_logits, device)}
    if device.type == "cuda" and importlib.util.find_spec("liger_kernel") is not None:
        module = importlib.import_module("liger_kernel.transformers")
        fused = module.LigerFusedLinearCrossEntropyLoss()
        found["Liger"] = mine / seconds_of(
            lambda: fused(weight, hidden, targets).backward(), device
        )
    return found


def trl_ratio(
    folder: Path, device: torch.device, case: str = "real", steps: int = 4
) -> dict[str, float]:
    """Time of our whole step to that of TRL's GRPOTrainer, with the same model and batch.

    Args:
        folder: for the rows of the comparison.
        device: both sides compute there.
        case: of speed/trl_step.py.
        steps: of each side, the first of them warm-up.

    Returns:
        Ratios by the clock and in CPU time; below 1 ours is faster.
    """
    rows_file = folder / "trl.json"
    words = ["--repeats", "1", "--steps", str(steps), "--case", case, "--json", str(rows_file)]
    script = str(ROOT / "speed" / "trl_step.py")
    command = [sys.executable, script, *words, "--device", device.type]
    subprocess.run(command, check=True, cwd=folder, timeout=HALF_HOUR)
    rows = json.loads(rows_file.read_text(encoding="utf-8"))
    return {row["quantity"]: row["ratio"] for row in rows}
