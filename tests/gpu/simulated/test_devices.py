"""Every tensor is where it has to be: runs on a simulated GPU equal those on the CPU.

Both runs of a pair take the same kernels of the CPU, so every metric but times must be the same up
to rounding: torch adds up norms and updates parameters by other kernels on a GPU.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from g2rl.cli.config.choices import choices
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.cli.jobs.fidelity import fidelity
from g2rl.cli.jobs.geometry import geometry
from g2rl.cli.jobs.train import train
from g2rl.engines.engine import SamplingParams
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.lm_head import FeatureRequest, head_pass
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from tests.gpu.simulated import device as simulated
from tests.gpu.simulated.device import MixedDevicesError, plain_attention, simulated_gpu
from tests.support import NO_EVALUATION, SMOKE, composed, metric_rows

pytestmark = pytest.mark.devices

SMALL = ("experiment=smoke", "tracking=local", "report=false", "task.max_response_tokens=16")
NOT_COMPARED = ("time/", "system/", "sample/drift")
"""Beginnings of the names of times, and of what is itself the size of rounding. Shares of negative
cosines are not compared either: they jump where one of few cosines is next to zero."""
WAYS = {
    "everything that is evaluated": SMOKE,
    "every kind of observer": (*SMALL, "exploration=none", "exploration.observe=[g2rl,evol,cde]"),
    "a lagging sampler": (*SMALL, "trainer.lag=1"),
    "shared prompts": (*SMALL, "model.prefix_sharing=on"),
    "recomputed activations": (*SMALL, "model.gradient_checkpointing=true"),
    "attention without a kernel": (*SMALL, "model.attention=eager"),
    "low-rank adapters": (*SMALL, "model.lora.r=4", "model.lora.include_head=true"),
    "small micro-batches": (*SMALL, "optimizer.micro_batch_tokens=256", "model.tile_mb=1"),
    "two epochs of a schedule": (*SMALL, "optimizer.epochs=2", "optimizer.schedule=linear"),
    "groups that are drawn again": (*SMALL, "algorithm=dapo", "algorithm.sampling_rounds=2"),
    "ratios of sequences": (*SMALL, "algorithm=gspo"),
    "clipped importance weights": (*SMALL, "algorithm=cispo"),
    "another task": (*SMALL, "task=detour", "model=detour"),
    "embeddings as a partition": (*SMALL, "exploration=uniqueness", "partition=embedding"),
    "features at another temperature": (*SMALL, "exploration.feature_temperature=0.5"),
}


def both(folder: Path, *words: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The metrics of a run on the CPU, and of the same run on the simulated GPU."""
    with plain_attention():
        train(composed(*words, "trainer.steps=2", "model.device=cpu"), folder / "cpu")
    with simulated_gpu():
        train(composed(*words, "trainer.steps=2", "model.device=cuda"), folder / "cuda")
    assert sum(simulated.launches.values()) > 1000, "the GPU was used"
    return metric_rows(folder / "cpu"), metric_rows(folder / "cuda")


def differing(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], *left_out: str
) -> dict[str, Any]:
    """The metrics that differ by more than rounding, with both values.

    Args:
        ours, theirs: rows of metrics.
        left_out: beginnings of names that are not compared, besides those of `NOT_COMPARED`.
    """
    found: dict[str, Any] = {}
    for one, other in zip(ours, theirs, strict=True):
        for name in one.keys() | other.keys():
            if name.startswith((*NOT_COMPARED, *left_out)) or "negative_pairs" in name:
                continue
            pair = one.get(name), other.get(name)
            if None in pair or pair[0] != pytest.approx(pair[1], rel=1e-4, abs=1e-5, nan_ok=True):
                found[f"{one['step']} {name}"] = pair
    return found


def test_what_a_gpu_refuses_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    with simulated_gpu():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        index = torch.tensor([1])
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[index.to("cuda")],
            lambda: there.index_select(0, index),
            lambda: there.index_put_((index,), here[:1]),
            lambda: there.masked_fill(here > 0, 0.0),
            lambda: torch.randn(3, device="cuda", generator=rng),
        ):
            with pytest.raises(MixedDevicesError):
                mixed()
        with pytest.raises(TypeError, match="can't convert"):
            there.numpy()


def test_what_a_gpu_takes_is_taken() -> None:
    with simulated_gpu():
        there, index = torch.arange(3.0, device="cuda"), torch.tensor([1])
        assert (there * torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0]
        assert there[index].device.type == "cuda"
        assert there.copy_(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]
        assert torch.zeros(3).copy_(there).device.type == "cpu"
        assert torch.ones(1, dtype=torch.int64, device="cuda:0").cpu().numpy() == 1


def test_modules_keep_what_they_share() -> None:
    model = torch.nn.ModuleDict({"one": torch.nn.Linear(3, 3), "two": torch.nn.Linear(3, 3)})
    model["two"].weight = model["one"].weight
    with simulated_gpu():
        copied = copy.deepcopy(model.to("cuda"))
        for module in (model, copied):
            assert module["one"].weight is module["two"].weight
            assert {p.device.type for p in module.parameters()} == {"cuda"}
            assert len(list(module.parameters())) == 3


def test_an_update_is_that_of_the_cpu() -> None:
    def updated(device: str) -> list[list[float]]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3).to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        values = torch.randn(2, 4).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            model(values).log_softmax(-1)[:, 0].sum().backward()
            optimizer.step()
        return [p.detach().flatten().tolist() for p in model.parameters()]

    with simulated_gpu():
        found = updated("cuda")
    assert found == updated("cpu")


@pytest.mark.parametrize("signal", choices("exploration"))
def test_every_signal_trains(signal: str, tmp_path: Path) -> None:
    plain, gpu = both(tmp_path, *SMALL, *NO_EVALUATION, f"exploration={signal}")
    assert differing(gpu, plain) == {}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_works(way: str, tmp_path: Path) -> None:
    words = WAYS[way] if way.startswith("everything") else (*WAYS[way], *NO_EVALUATION)
    plain, gpu = both(tmp_path, *words)
    assert differing(gpu, plain) == {}


@pytest.mark.parametrize("words", ["model.compute_dtype=bfloat16", "model.dtype=bfloat16"])
def test_sixteen_bits_come_close(words: str, tmp_path: Path) -> None:
    plain, gpu = both(tmp_path, *SMALL, *NO_EVALUATION, words)
    for ours, theirs in zip(gpu, plain, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(math.isfinite(v) for v in ours.values() if isinstance(v, float))
    assert gpu[1]["train/entropy"] == pytest.approx(plain[1]["train/entropy"], abs=0.05)


def test_a_run_goes_on(tmp_path: Path) -> None:
    words = (*SMALL, *NO_EVALUATION, "model.device=cuda", "trainer.checkpoint_every=1")
    with simulated_gpu():
        train(composed(*words, "trainer.steps=1"), tmp_path / "stopped")
        train(composed(*words, "trainer.steps=2"), tmp_path / "stopped")
        train(composed(*words, "trainer.steps=2"), tmp_path / "whole")
    stopped, whole = (metric_rows(tmp_path / name) for name in ("stopped", "whole"))
    assert differing(stopped[1:], whole[1:], "eval/", "probe/") == {}


def test_analyses_work(tmp_path: Path) -> None:
    small = ("model.device=cuda", "problems=3", "responses=3", "max_tokens=16")
    with simulated_gpu():
        geometry(composed(*small, command="analyze_geometry"), tmp_path / "geometry")
        fidelity(
            composed(*small, "resamples=50", command="analyze_fidelity"), tmp_path / "fidelity"
        )
        words = ("model.device=cuda", "benchmark.problems=3", "benchmark.max_tokens=16")
        evaluate(composed(*words, "tracking=local", command="evaluate"), tmp_path / "evaluation")
    pairs = pd.read_parquet(tmp_path / "fidelity" / "pairs.parquet")
    assert len(pairs) == 3 * 3
    assert (tmp_path / "geometry" / "responses.parquet").is_file()
    assert (tmp_path / "evaluation" / "results.parquet").is_file()


def test_the_head_waits_as_often_for_many_tiles_as_for_one() -> None:
    tokens, words, width = 64, 4000, 4
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=rng)
    weight = torch.randn(words, width, generator=rng)
    found = []
    for tile_bytes in (16 << 20, 1 << 18):
        with simulated_gpu():
            request = FeatureRequest(torch.arange(tokens, device="cuda") // 8, 8, 1.0)
            where = [hidden.to("cuda"), weight.to("cuda").requires_grad_()]
            targets = torch.arange(tokens, device="cuda")
            simulated.waits.clear()
            output = head_pass(*where, targets, features=request, tile_bytes=tile_bytes)
            (output.logps_T.sum() + output.entropy_T.sum()).backward()
            found.append((sum(simulated.waits.values()), simulated.launches["aten.mm.out"]))
    (few_waits, few_products), (many_waits, many_products) = found
    assert many_products > 4 * few_products, "more tiles"
    assert few_waits == many_waits


def test_a_tile_of_a_large_vocabulary_takes_few_kernels() -> None:
    with simulated_gpu():
        hidden, weight = torch.ones(32, 8, device="cuda"), torch.ones(151_936, 8, device="cuda")
        request = FeatureRequest(torch.arange(32, device="cuda") // 8, 4, 1.0)
        simulated.launches.clear()
        targets = torch.arange(32, device="cuda")
        head_pass(hidden, weight, targets, features=request, tile_bytes=512 << 20)
        assert simulated.launches["aten.mm.out"] == 1, "one tile"
        assert sum(simulated.launches.values()) < 150, "735 in chunks of 4096 words"


def test_sampling_waits_once_a_token_and_sends_it_nothing() -> None:
    found = []
    with simulated_gpu():
        tiny = load("builtin:tiny", device="cuda")
        # no token stops a response, so that none leaves the batch before the end
        engine = TransformersEngine(Policy(tiny.model), tiny.tokenizer, [])
        prompt = tiny.tokenizer("use 2 9 5 make 16 :")["input_ids"]
        engine.generate([prompt], [(7, 0)], 4, SamplingParams(max_tokens=4))
        for tokens in (16, 32):
            simulated.waits.clear()
            simulated.transfers.clear()
            engine.generate([prompt], [(7, 0)], 4, SamplingParams(max_tokens=tokens))
            found.append((sum(simulated.waits.values()), sum(simulated.transfers.values())))
    (few_waits, few_transfers), (many_waits, many_transfers) = found
    assert many_waits - few_waits == 16
    assert many_transfers == few_transfers
