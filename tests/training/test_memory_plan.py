"""The memory plan against real tensors: parameters, moments, caches, what autograd saves, a tracked
peak."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from g2rl.cli.build.memory import job_of
from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.jobs.train import train
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.lean_modules import with_lean_modules
from g2rl.policy.loading import read_config, set_checkpointing
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.policy import Policy
from g2rl.training.memory import Job, activations, compute_copy, estimate, kv_cache, saved_by_block
from g2rl.training.memory_plan import Plan, PlanError, _lean_parts, device_memory, shape_of
from g2rl.training.optimizer import parameter_groups
from speed.memory_table import CARD, MODELS, QWEN3, RESPONSE_TOKENS, main, paper_job
from tests.support import ROOT, SMOKE, composed

SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 96,
    "intermediate_size": 640,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
CONFIGS = {
    "qwen3": Qwen3Config(**SIZES),
    "llama": LlamaConfig(**(SIZES | {"head_dim": 64, "tie_word_embeddings": False})),
}
PRECISIONS = {"float32": (4, False), "autocast": (4, True), "bfloat16": (2, False)}
ROWS, LENGTH = 4, 256


def job(precision: str = "float32", **changes: Any) -> Job:
    weight_bytes, autocast = PRECISIONS[precision]
    settings: dict[str, Any] = {
        "prompts": 1,
        "group_size": ROWS,
        "prompt_tokens": 4,
        "response_tokens": LENGTH - 4,
        "micro_batch_tokens": ROWS * LENGTH,
        "score_tokens": ROWS * LENGTH,
        "max_rows": ROWS,
        "tile_bytes": 1 << 20,
        "weight_bytes": weight_bytes,
        "autocast": autocast,
        "reference": False,
        "features": False,
    }
    return Job(**(settings | changes))


def build(
    kind: str, precision: str = "float32", checkpointing: bool = False, lean: bool = True
) -> Any:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_config(CONFIGS[kind], dtype=dtype, attn_implementation="sdpa")
    if checkpointing:
        set_checkpointing(model, True)
    if lean:
        with_lean_modules(model)
    return model.train()


def size(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def tokens() -> Tensor:
    return torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % SIZES["vocab_size"]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "tiny"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=3), LoraSettings(r=2, include_head=True)])
def test_parameters_gradients_and_moments_are_exact(
    kind: str, lora: LoraSettings | None, precision: str
) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    config = read_config("builtin:tiny") if kind == "tiny" else CONFIGS[kind]
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision))
    if lora is not None:
        add_lora(model, lora, "here")
    policy = Policy(model)
    optimizer = torch.optim.AdamW(parameter_groups(policy, 0.0))
    trained = [p for p in policy.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [
        state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    found = estimate(shape_of(config, lora), job(precision))
    assert found.always == {"parameters": size(policy.parameters()), "optimizer": size(moments)}
    assert found.phases["optimizer step"]["gradients"] == size(p.grad for p in trained)


@pytest.mark.parametrize(
    ("name", "published"), [("Qwen3-1.7B", 1_720_574_976), ("Qwen3-4B", 4_022_468_096)]
)
def test_the_table_is_about_models_of_the_right_size(name: str, published: int) -> None:
    """By hand: tied embedding; per layer q k v o, gate up down, two norms, two head norms; last
    norm."""
    sizes = MODELS[name]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    queries, keys = sizes["num_attention_heads"] * 128, 8 * 128
    layer = width * (2 * queries + 2 * keys) + 3 * width * inner + 2 * width + 2 * 128
    by_hand = 151_936 * width + sizes["num_hidden_layers"] * layer + width
    shape = shape_of(Qwen3Config(**QWEN3, **sizes))
    assert shape.parameters == shape.trained == by_hand == published
    assert shape.block == layer
    assert shape.outside == 151_936 * width + width


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_kv_cache_is_exact(kind: str, precision: str) -> None:
    model = build(kind, precision).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=PRECISIONS[precision][1]):
        cache = model.model(input_ids=tokens()[:, :9], use_cache=True).past_key_values
        model.model(input_ids=tokens()[:, 9:10], past_key_values=cache, use_cache=True)
    held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    assert kv_cache(shape_of(CONFIGS[kind]), job(precision), ROWS, 10) == size(held)


def saved_bytes(model: Any, autocast: bool) -> int:
    """Bytes that autograd holds after a forward, each storage once, without the parameters
    themselves."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            held.setdefault(place, tensor)  # kept alive, so that no place is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model.model(input_ids=tokens(), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_activations_are_what_autograd_saves(kind: str, precision: str) -> None:
    """Within 1.5 %: token ids and the shared cosines and sines of the positions are not in the
    formula."""
    shape, plan = shape_of(CONFIGS[kind]), job(precision)
    found = saved_bytes(build(kind, precision), plan.autocast)
    if (
        plan.autocast
    ):  # the weights' bfloat16 copies are saved too; the plan has them as compute copy
        found -= shape.layers * (shape.block - 2 * shape.width - 2 * 96 * shape.qk_norm) * 2
    expected = activations(shape, plan, ROWS * LENGTH)
    assert 1.0 <= found / expected < 1.015


@pytest.mark.parametrize("precision", PRECISIONS)
def test_plain_modules_save_more(precision: str) -> None:
    """A model whose norms and MLPs are its own, as where no lean one repeats them."""
    lean = shape_of(CONFIGS["qwen3"])
    plain, plan = replace(lean, lean_norms=False, lean_mlps=False), job(precision)
    model = build("qwen3", precision, lean=False)
    found = saved_bytes(model, plan.autocast)
    if plan.autocast:
        found -= lean.layers * (lean.block - 2 * lean.width - 2 * 96) * 2
    assert lean.lean_norms
    assert lean.lean_mlps
    assert 1.0 <= found / activations(plain, plan, ROWS * LENGTH) < 1.015

    # Gemma multiplies by 1 + w, and has another activation
    gemma = shape_of(GemmaConfig(**SIZES))
    assert not gemma.lean_norms
    assert not gemma.lean_mlps


@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_activations_under_lora_are_bounded(precision: str) -> None:
    """A frozen layer does not keep its input for itself, its adapter does: never more than the plan
    says."""
    pytest.importorskip("peft")
    lora, plan = LoraSettings(r=4), job(precision)
    model = build("qwen3", precision)
    add_lora(model, lora, "here")
    shape = shape_of(CONFIGS["qwen3"], lora)
    found = saved_bytes(model, plan.autocast)
    copies = compute_copy(shape, plan)
    assert 0.75 < found / (activations(shape, plan, ROWS * LENGTH) + copies) < 1.015


@pytest.mark.parametrize("precision", PRECISIONS)
def test_with_checkpointing_blocks_save_their_input_alone(precision: str) -> None:
    shape, plan = shape_of(CONFIGS["qwen3"]), job(precision, checkpointing=True)
    count = ROWS * LENGTH
    found = saved_bytes(build("qwen3", precision, checkpointing=True), plan.autocast)
    expected = activations(shape, plan, count) - count * saved_by_block(shape, plan)
    assert 0.98 < found / expected < 1.1


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_the_peak_of_an_update_is_a_close_upper_bound(precision: str, checkpointing: bool) -> None:
    """Against torch's tracker of live tensors over a real forward and backward of the policy."""
    tracker_module = pytest.importorskip("torch.distributed._tools.mem_tracker")
    model = build("qwen3", precision, checkpointing)
    policy = Policy(model, 1 << 20, "bfloat16" if precision == "autocast" else None).train()
    optimizer = torch.optim.AdamW(parameter_groups(policy, 0.0))
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    sequences = Sequences([[1, 2, 3, 4]] * ROWS, [[5] * (LENGTH - 4)] * ROWS)
    batch = make_micro_batch(sequences, list(range(ROWS)), torch.device("cpu"))
    tracker = tracker_module.MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        output = policy(batch)
        (output.logps_T.sum() + output.entropy_T.sum()).backward()
    [peak] = [device["Total"] for device in tracker.get_tracker_snapshot("peak").values()]
    found = estimate(shape_of(CONFIGS["qwen3"]), job(precision, checkpointing=checkpointing))
    ratio = found.total("update") / peak
    print(f"ratio {precision} {checkpointing=}: {ratio:.3f}")
    assert 1.0 <= ratio < 1.25


def test_sharding_divides_what_is_trained_and_offloading_removes_it() -> None:
    shape = shape_of(CONFIGS["qwen3"])
    one = estimate(shape, job(reference=True))
    four = estimate(shape, job(reference=True, gpus=4, sharded=True, prompts=4))
    assert four.always.pop("sampler") == shape.parameters * 4  # whole on every rank
    assert four.always == {name: size // 4 for name, size in one.always.items()}
    assert four.phases["sampling"]["compute copy"] == 0
    assert "sampler" not in estimate(shape, job(gpus=4, sharded=True, vllm_bytes=77)).always
    copies = estimate(shape, job(reference=True, gpus=4, prompts=4))
    assert copies.always == one.always
    gathered = compute_copy(shape, job(gpus=4, sharded=True))
    assert gathered == (shape.outside + 2 * shape.block) * 4
    away = estimate(shape, job(reference=True, offload_reference=True, offload_optimizer=True))
    assert set(away.always) == {"parameters"}
    assert away.phases["scoring"]["reference"] == one.always["reference"]
    assert "reference" not in estimate(replace(shape, lora=True), job(reference=True)).always


def test_an_encoder_and_past_weights_count_where_they_lie() -> None:
    shape = shape_of(CONFIGS["qwen3"])
    plain = estimate(shape, job())
    assert "encoding" not in plain.phases
    stays = estimate(shape, job(encoder_bytes=70, encoder_forward=9))
    assert stays.always == plain.always | {"encoder": 70}
    assert stays.phases["encoding"] == {"encoder forward": 9}
    away = estimate(shape, job(encoder_bytes=70, encoder_forward=9, offload_encoder=True))
    assert away.always == plain.always
    assert away.phases["encoding"] == {"encoder forward": 9, "encoder": 70}

    lagged = estimate(shape, job(past_weights=3))
    assert lagged.always["past weights"] == 3 * shape.parameters * 4


def test_a_gpu_samples_whole_groups_and_no_more_than_there_are() -> None:
    shape = shape_of(CONFIGS["qwen3"])
    cache = {
        (prompts, rows): estimate(shape, job(prompts=prompts, gpus=4, max_rows=rows)).phases[
            "sampling"
        ]["KV cache"]
        for prompts, rows in [(4, 100), (5, 100), (5, 6)]
    }
    assert cache[4, 100] == kv_cache(shape, job(), ROWS, LENGTH)
    assert cache[5, 100] == kv_cache(shape, job(), 2 * ROWS, LENGTH)
    assert cache[5, 6] == kv_cache(shape, job(), 6, LENGTH)
    longer = estimate(shape, job(eval_rows=7, eval_tokens=1000, max_rows=5)).phases["sampling"][
        "KV cache"
    ]
    assert longer == kv_cache(shape, job(), 5, 1004)
    assert estimate(shape, job(vllm_bytes=77)).phases["sampling"] == {"vllm": 77}
    awake = estimate(shape, job(vllm_bytes=77, vllm_sleeps=False))
    assert awake.always["vllm"] == 77
    assert awake.phases["sampling"] == {}


QWEN_1_7B = shape_of(Qwen3Config(**QWEN3, **MODELS["Qwen3-1.7B"]))
QWEN_4B = shape_of(Qwen3Config(**QWEN3, **MODELS["Qwen3-4B"]))


def test_what_cannot_fit_is_refused_with_a_knob_that_helps() -> None:
    """The message of the docs: experiment=paper_1_7b as it stands."""
    validating = replace(paper_job(8192, 1), max_rows=512, eval_rows=8000, eval_tokens=8192)
    plan = Plan(QWEN_1_7B, validating, CARD)
    with pytest.raises(
        PlanError, match=r"sampling needs about .* GiB .*KV cache .*engine\.max_rows=16,"
    ) as error:
        plan.refuse()
    assert str(error.value) in " ".join(
        (ROOT / "docs" / "memory.md").read_text(encoding="utf-8").split()
    )
    Plan(QWEN_1_7B, replace(validating, max_rows=16), CARD).refuse()
    with pytest.raises(PlanError):
        Plan(QWEN_1_7B, replace(validating, max_rows=32), CARD).refuse()


@pytest.mark.parametrize(
    ("name", "experiment"), [("Qwen3-1.7B", "paper_1_7b"), ("Qwen3-4B", "paper_4b")]
)
@pytest.mark.parametrize("gpus", [1, 8])
def test_the_table_is_about_the_experiments(
    name: str, experiment: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(gpus))
    parallel = "fsdp" if gpus > 1 else "single"
    config = composed(f"experiment={experiment}", f"parallel={parallel}")
    found = job_of(read_train_settings(config), [], features=True, memory=CARD)
    assert replace(found, max_rows=1) == paper_job(RESPONSE_TOKENS[name], gpus)


def test_each_component_has_its_knob() -> None:
    asked = replace(paper_job(8192, 1), checkpointing=False)
    with pytest.raises(
        PlanError,
        match=r"activations .*gradient_checkpointing=true, optimizer\.micro_batch_tokens=",
    ):
        Plan(QWEN_1_7B, asked, CARD).refuse()
    with pytest.raises(PlanError, match=r"optimizer .*model\.lora\.r=16, parallel=fsdp"):
        Plan(QWEN_4B, paper_job(12_288, 1), CARD).refuse()
    every = estimate(QWEN_1_7B, asked)
    both = estimate(QWEN_1_7B, replace(asked, vllm_bytes=1, vllm_sleeps=False))
    for found in (every, both):
        for phase in found.phases:
            for name in found.always | found.phases[phase]:
                assert Plan(QWEN_1_7B, asked, CARD).knob(name), name


def test_little_to_spare_is_a_warning() -> None:
    peak = estimate(QWEN_1_7B, paper_job(8192, 1)).peak[1]
    for memory, tight, fits in (
        (2 * peak, False, True),
        (peak, True, True),
        (peak - 1, False, False),
    ):
        plan = Plan(QWEN_1_7B, paper_job(8192, 1), memory)
        assert (plan.warning() is not None, plan.fits) == (tight, fits)


def test_the_plan_adds_up() -> None:
    plan = Plan(QWEN_1_7B, paper_job(8192, 4), CARD)
    lines = plan.lines()
    assert len(lines) == 7
    assert "sharded over 4 devices with 74.5" in lines[0]
    always = float(lines[2].split()[1])
    # weights, two moments and reference of a quarter, and the whole sampler in bfloat16
    assert always == pytest.approx(1_720_574_976 * (16 / 4 + 2) / 2**30, abs=0.06)
    [updating] = [line for line in lines if line.split()[0] == "update"]
    parts = sum(
        float(part.rsplit(" ", 1)[-1]) for part in updating.split("always + ")[1].split(", ")
    )
    assert float(updating.split()[1]) == pytest.approx(always + parts, abs=0.5)


def test_an_architecture_that_is_not_understood_says_so() -> None:
    with pytest.raises(ValueError, match="no memory plan for model type gpt2"):
        shape_of(GPT2Config(n_layer=1, n_embd=32, n_head=2))


def test_the_memory_of_this_machine_is_found() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < device_memory(torch.device("cpu")) <= pages


def test_the_docs_hold_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["memory_table.py"])
    main()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 14
    assert printed in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")


# the command


def run(folder: Path, *overrides: str) -> float:
    quick = [
        "trainer.steps=1",
        "trainer.probe_problems=0",
        "benchmark.problems=2",
        "benchmark.samples=2",
        "benchmark.max_tokens=2",
    ]
    config = composed(*SMOKE, *quick, "benchmark.ks=[1]", *overrides)
    return train(config, folder)


def test_a_run_that_cannot_fit_ends_before_the_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("g2rl.cli.build.memory.device_memory", lambda device: 50 << 20)
    monkeypatch.setattr("g2rl.cli.build.model.load", None)
    with pytest.raises(PlanError, match=r"update needs about .*activations"):
        run(tmp_path)
    assert capsys.readouterr().out == "", "on a CPU the plan is quiet"
    with pytest.raises(ValueError, match="plan must be one of"):
        run(tmp_path, "plan=loud", "resume=never")
    with pytest.raises(TypeError, match="NoneType"):  # loading is reached
        run(tmp_path, "plan=off", "resume=never")


def test_the_plan_is_printed_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "plan=print")
    assert "memory plan, GiB (each of 1 device" in capsys.readouterr().out


class PlainMLP(nn.Module):
    """An MLP by its name, without an activation of transformers' name."""


class Experts(nn.Module):
    """Experts, whose class does not say that they are MLPs."""

    def __init__(self) -> None:
        super().__init__()
        self.act_fn = nn.SiLU()


@pytest.mark.parametrize(
    ("others", "are_lean"),
    [
        ([], (True, True)),
        ([nn.LayerNorm(8)], (False, True)),
        ([PlainMLP()], (True, False)),
        ([Experts()], (True, False)),
    ],
)
def test_one_part_that_stays_is_counted_for_all(
    others: list[nn.Module], are_lean: tuple[bool, bool]
) -> None:
    parts = [LlamaRMSNorm(8), LlamaMLP(CONFIGS["llama"]), *others]
    assert _lean_parts(nn.Sequential(*parts)) == are_lean


def test_a_model_without_such_parts_has_no_lean_ones() -> None:
    assert _lean_parts(nn.Sequential(nn.Linear(2, 2))) == (False, False)
