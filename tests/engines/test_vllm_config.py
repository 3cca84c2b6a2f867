"""The vLLM adapter without vLLM: refusals, seeds, the order of its calls against a made-up engine,
drift."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from g2rl.engines import colocated
from g2rl.engines import vllm as adapter
from g2rl.engines.colocated import (
    export_config,
    gather_requests,
    random_state_kept,
    world_size,
)
from g2rl.engines.drift import Drift, DriftError, measure_drift, probe_prompts, refuse_drift
from g2rl.engines.engine import SamplerMemory, seed_of
from g2rl.engines.transformers import TransformersEngine
from g2rl.engines.vllm import VllmEngine, check_version, import_vllm, resolve_sleep
from g2rl.policy.loading import LoadedModel, load
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_missing_vllm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"g2rl\[vllm\].*make test-vllm"):
        VllmEngine(Policy(tiny.model), tiny.tokenizer, tiny.stop_ids)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.5", "0.32.1+cpu", "0.32.1rc1"])
def test_tried_versions_pass(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.33.0+cpu", "1.0.0", "dev", "unknown"])
def test_other_versions_are_refused_by_name(version: str) -> None:
    with pytest.raises(RuntimeError, match=rf">=0\.32,<0\.33.*{version.replace('+', '.')}"):
        check_version(version)


def test_vllm_in_another_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(RuntimeError, match="VLLM_ENABLE_V1_MULTIPROCESSING"):
        import_vllm()


def test_seeds_are_distinct_stable_and_fit_63_bits() -> None:
    seeds = {
        seed_of((seed, 0x7A1B, step, p), g)
        for seed in (0, 1)
        for step in range(10)
        for p in range(20)
        for g in range(16)
    }
    assert len(seeds) == 2 * 10 * 20 * 16
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63  # all 63 bits are used
    assert seed_of((0, 1), 2) == 1535930435702422785  # the same in every release
    assert seed_of((0, 1), 2) != seed_of((0,), 1)


def test_sleep_is_never_dropped_in_silence() -> None:
    assert resolve_sleep("auto", GPU)
    assert resolve_sleep(True, GPU)
    assert not resolve_sleep("auto", CPU)
    assert not resolve_sleep(False, GPU)
    with pytest.raises(ValueError, match="no sleep mode on cpu"):
        resolve_sleep(True, CPU)
    with pytest.raises(ValueError, match="maybe"):
        resolve_sleep("maybe", CPU)


class MadeUpLLM:
    """Takes the calls that `vllm.LLM` takes, writes them down, and samples from the policy it is
    given."""

    policy: Policy
    calls: list[str]
    shift = 0.0

    def __init__(self, folder: str, **arguments: Any) -> None:
        type(self).calls = []
        self.folder, self.arguments = folder, arguments
        config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=512),
            cache_config=SimpleNamespace(block_size=16),
        )
        core = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.llm_engine = SimpleNamespace(vllm_config=config, engine_core=core)
        self.asked: list[Any] = []

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        names = [name for name, _ in kwargs["weights_iterator"]]
        self.calls.append(f"{method} {len(names)}")

    def apply_model(self, function: Any) -> None:
        self.calls.append(function.__name__)

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return True

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        self.calls.append(f"wake {tags}")
        return True

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    @torch.no_grad()
    def generate(self, tokens: list[Any], asked: list[Any], use_tqdm: Any) -> list[Any]:
        """Every response is the tokens 5 6 2, with the policy's log-probs, shifted on request."""
        self.calls.append(f"generate {len(tokens)}")
        self.asked = asked
        found = []
        for prompt, params in zip(tokens, asked, strict=True):
            ids = prompt["prompt_token_ids"]
            logits = self.policy.model(torch.tensor([[*ids, 5, 6, 2]])).logits[0, len(ids) - 1 : -1]
            logps = (logits / (params.temperature or 1)).log_softmax(-1)[torch.arange(3), [5, 6, 2]]
            output = SimpleNamespace(
                token_ids=(5, 6, 2),
                finish_reason="stop",
                logprobs=SimpleNamespace(logprobs=(logps + self.shift).tolist()),
            )
            found.append(SimpleNamespace(outputs=[output]))
        return found


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel) -> Policy:
    """A vllm module with the class above; returns the policy it samples from."""
    module = ModuleType("vllm")
    policy = Policy(tiny.model)
    monkeypatch.setattr(MadeUpLLM, "policy", policy, raising=False)
    monkeypatch.setattr(MadeUpLLM, "calls", [], raising=False)
    monkeypatch.setattr(module, "__version__", "0.32.0", raising=False)
    monkeypatch.setattr(module, "LLM", MadeUpLLM, raising=False)
    monkeypatch.setattr(module, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(module, "TokensPrompt", dict, raising=False)
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", *adapter.QUIET):
        monkeypatch.delenv(name, raising=False)
    yield policy
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", *adapter.QUIET):
        os.environ.pop(name, None)


def build(policy: Policy, tiny: LoadedModel, **settings: Any) -> VllmEngine:
    return VllmEngine(policy, tiny.tokenizer, tiny.stop_ids, **settings)


def test_a_push_goes_in_its_order(made_up: Policy, tiny: LoadedModel) -> None:
    engine = build(made_up, tiny, drift_every=0)
    weights = len(list(made_up.weights()))
    engine.push_weights()
    push = [f"reload_weights {weights}", "repack_heads"]
    assert engine.llm.calls == [*push, "reset", "generate 4"]  # the first push is always checked
    engine.sleeps = True
    engine.llm.calls.clear()
    for _ in range(2):
        engine.generate([[3, 4]], [(0,)], 2, SamplingParams(max_tokens=8))
    engine.push_weights()
    engine.generate([[3, 4]], [(0,)], 2, SamplingParams(max_tokens=8))
    assert engine.llm.calls == [
        "generate 2",
        "sleep 1",
        "wake None",
        "reset",
        "generate 2",
        "sleep 1",
        "wake ['weights']",
        *push,
        "wake ['kv_cache']",
        "reset",
        "generate 2",
        "sleep 1",
    ]
    folder = Path(engine.folder)
    assert folder.is_dir()
    llm = engine.llm
    engine.close()
    engine.close()
    assert llm.calls[-1] == "shutdown"
    assert llm.calls.count("shutdown") == 1
    assert not folder.exists()


@pytest.mark.parametrize("part", ["LLM", "configuration", "probe"])
def test_an_engine_that_cannot_start_leaves_no_folder(
    made_up: Policy,
    tiny: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no memory left")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if part == "LLM":
        monkeypatch.setattr(MadeUpLLM, "__init__", fail)
    elif part == "configuration":
        monkeypatch.setattr(colocated, "export_config", fail)
    else:
        monkeypatch.setattr(VllmEngine, "make_probe", fail)
    with pytest.raises(ValueError, match="no memory left"):
        build(made_up, tiny)
    gc.collect()
    assert not list(tmp_path.glob("g2rl-engine-*"))


def test_what_is_asked_of_vllm(made_up: Policy, tiny: LoadedModel) -> None:
    engine = build(
        made_up, tiny, kv_cache_mb=3, block_size=16, options={"max_num_batched_tokens": 99}
    )
    arguments = engine.llm.arguments
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert (arguments["dtype"], arguments["kv_cache_memory_bytes"]) == ("float32", 3 << 20)
    assert (arguments["block_size"], arguments["max_num_batched_tokens"]) == (16, 99)
    assert not arguments["enable_sleep_mode"]
    assert "distributed_executor_backend" not in arguments
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    engine.push_weights()
    params = SamplingParams(0.7, top_p=0.9, top_k=5, max_tokens=8)
    groups = engine.generate([[3, 4], [5]], [(1, 2), (1, 3)], 2, params)
    asked = engine.llm.asked
    assert [a.seed for a in asked] == [seed_of(key, g) for key in ((1, 2), (1, 3)) for g in (0, 1)]
    assert {(a.temperature, a.top_p, a.top_k, a.max_tokens) for a in asked} == {(0.7, 0.9, 5, 8)}
    assert {tuple(a.stop_token_ids) for a in asked} == {tuple(tiny.stop_ids)}
    assert all(a.ignore_eos and not a.detokenize for a in asked)
    assert [[c.finish for c in group] for group in groups] == [["stop"] * 2] * 2
    assert groups[0][0].logps is not None
    [[greedy]] = engine.generate([[3]], [(0,)], 1, SamplingParams(0.0, max_tokens=8))
    assert greedy.logps is None
    engine.close()


def test_an_engine_class_says_what_memory_sampling_takes() -> None:
    assert TransformersEngine.sampler_memory({"max_rows": 3}) == SamplerMemory(max_rows=3)
    settings = {"max_rows": 4, "gpu_memory_utilization": 0.5, "kv_cache_mb": None, "sleep": False}
    assert VllmEngine.sampler_memory(settings) == SamplerMemory(4, 0.5, None, sleeps=False)
    assert VllmEngine.sampler_memory({"sleep": "auto", "kv_cache_mb": 7}).kv_cache_mb == 7
    assert (TransformersEngine.reports_logps, VllmEngine.reports_logps) == (False, True)


def test_settings_that_cannot_be_met_are_refused(made_up: Policy, tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"engine\.options\.dtype"):
        build(made_up, tiny, options={"dtype": "float16"})
    with pytest.raises(ValueError, match="float16"):
        build(made_up, tiny, dtype="float16")
    with pytest.raises(ValueError, match=r"tensor_parallel=2 must divide the 1 ranks"):
        build(made_up, tiny, tensor_parallel=2)


def test_ranks_without_torch_distributed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"torch\.distributed"):
        world_size()


def test_drift_over_the_tolerance_stops_the_run(
    made_up: Policy, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(made_up, tiny, drift_every=1)
    engine.push_weights()
    assert engine.drift is not None
    assert engine.drift.largest < 1e-4
    monkeypatch.setattr(MadeUpLLM, "shift", 2e-3)
    with pytest.raises(DriftError, match=r"0\.002.*float32 tolerance of 0\.001 \(largest\)"):
        engine.push_weights()
    engine.tolerance = 3e-3
    engine.push_weights()
    monkeypatch.setattr(MadeUpLLM, "shift", float("nan"))
    with pytest.raises(DriftError, match="nan"):
        engine.push_weights()
    engine.close()


def test_drift_of_numbers_by_hand(tiny: LoadedModel) -> None:
    """A uniform policy (zero head) gives -log V; the engine says -log V + 0.1 and -log V - 0.3."""
    policy = Policy(load("builtin:tiny", device="cpu").model)
    policy.model.get_output_embeddings().weight.data.zero_()
    size = policy.model.config.vocab_size
    flat = float(-torch.tensor(float(size)).log())
    said = Completion([5, 6], "length", "", [flat + 0.1, flat - 0.3])
    drift = measure_drift(policy, [[3, 4]], [[said]], 0.7)
    assert (drift.largest, drift.mean, drift.tokens) == (pytest.approx(0.3), pytest.approx(0.2), 2)


@pytest.mark.parametrize(
    ("largest", "mean", "dtype", "passes"),
    [
        (9e-4, 1e-4, "float32", True),
        (2e-3, 1e-5, "float32", False),
        (0.9, 0.19, "bfloat16", True),
        (0.9, 0.21, "bfloat16", False),
        (float("inf"), 0.1, "bfloat16", False),
        (float("nan"), 0.1, "bfloat16", False),
    ],
)
def test_tolerance_is_of_the_largest_in_float32_and_of_the_mean_in_bfloat16(
    largest: float, mean: float, dtype: str, passes: bool
) -> None:
    tolerance = {"float32": 1e-3, "bfloat16": 0.2}[dtype]
    drift = Drift(largest, mean, 64)
    if passes:
        refuse_drift(drift, tolerance, dtype, "vLLM", 1)
    else:
        with pytest.raises(DriftError, match=dtype):
            refuse_drift(drift, tolerance, dtype, "vLLM", 1)


def test_probe_prompts_never_change() -> None:
    assert probe_prompts(84, 40) == probe_prompts(84, 40)
    assert probe_prompts(84, 3) == [[10, 50, 43], [24, 4, 53]]
    assert {len(p) for p in probe_prompts(84, 40)} == {40}


def exported(model: Any, folder: Path) -> Any:
    export_config(model, str(folder))
    return AutoConfig.from_pretrained(folder)


def test_the_exported_configuration_builds_the_same_architecture(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    class ShardedTiny(type(tiny.model)):  # type: ignore[misc]
        """FSDP2 gives a module a class of its own."""

    model = ShardedTiny(tiny.model.config)
    config = exported(model, tmp_path)
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.hidden_size == tiny.model.config.hidden_size
    assert not config.tie_word_embeddings


def small(tied: bool) -> Any:
    return load(
        "builtin:tiny",
        device="cpu",
        random_init=True,
        overrides={"tie_word_embeddings": tied},
    ).model


def test_a_tied_head_is_pushed_once_and_with_an_adapter_as_its_own(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain, tied = Policy(small(False)), Policy(small(True))
    names = [name for name, _ in plain.weights()]
    assert "lm_head.weight" in names
    assert sorted(names) == sorted(plain.model.state_dict())
    assert sorted(name for name, _ in tied.weights()) == sorted(set(names) - {"lm_head.weight"})
    add_lora(tied.model, LoraSettings(r=2, include_head=True), "none")
    assert exported(tied.model, tmp_path).tie_word_embeddings is False
    with torch.no_grad():
        for name, parameter in tied.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    found = dict(tied.weights())
    assert sorted(found) == sorted(names)
    assert not torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_random_state_is_put_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    before = torch.get_float32_matmul_precision()
    with random_state_kept(CPU):
        torch.manual_seed(99)
        torch.rand(5)
        torch.set_float32_matmul_precision("medium")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_float32_matmul_precision() == before


def test_a_rank_of_its_own_needs_nobody() -> None:
    assert gather_requests(None, [[1], [2]], [(0,), (1,)]) == (0, [[1], [2]], [(0,), (1,)])
