"""LoRA: the merged head, the base as its own reference, what trains, exports, resume, the real
command."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from g2rl.cli.build.model import frozen_copy, load_model, model_of_run
from g2rl.cli.build.settings import read_model_settings
from g2rl.cli.jobs.train import train
from g2rl.engines.transformers import TransformersEngine
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch
from g2rl.policy.loading import LoadedModel, load, set_checkpointing
from g2rl.policy.lora import (
    LoraSettings,
    adapters_off,
    add_lora,
    has_lora,
    load_adapter,
    lora_layers,
    merged_state,
    merged_weight,
    save_lora,
    share_in_export,
)
from g2rl.policy.policy import Policy
from g2rl.policy.reference import AdaptersOff
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.runs.checkpoints import CheckpointError, _check_export
from g2rl.training.micro_batch_update import UpdateBatch
from g2rl.training.step import TrainingStep
from g2rl.training.updater import OptimizerSettings, Updater
from g2rl.types import SamplingParams
from tests import commands
from tests.models.zoo import tiny_model
from tests.support import EVERYTHING, NO_EVALUATION, SMOKE, composed, told_by_g2rl, untimed_rows

peft = pytest.importorskip("peft")
SEQUENCES = Sequences(
    [[1, 3, 27, 30, 5]] * 4, [[23, 34, 2], [40, 2], [9, 30, 24, 31, 2], [7, 8, 2]]
)
TEMPERATURE = 0.7


@pytest.fixture
def batch() -> MicroBatch:
    return make_micro_batch(SEQUENCES, [0, 1, 2], torch.device("cpu"))


def base_model(tiny: LoadedModel, dtype: torch.dtype = torch.float64) -> Any:
    """The tiny model, its embedding tied to its head, as in the models one would use LoRA on."""
    model = copy.deepcopy(tiny.model).to(dtype)
    model.model.embed_tokens.weight = model.lm_head.weight
    model.config.tie_word_embeddings = True
    return model


def adapted(
    tiny: LoadedModel,
    dtype: torch.dtype = torch.float64,
    noise: float = 0.3,
    adapters: torch.dtype | None = None,
    **settings: Any,
) -> Any:
    """The tiny model with adapters; with noise, their B are drawn instead of 0."""
    torch.manual_seed(0)
    model = base_model(tiny, dtype)
    add_lora(model, LoraSettings(**({"r": 3, "alpha": 5.0} | settings)), "builtin:tiny")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == (adapters or dtype)
            if "lora_B" in name and noise:
                nn.init.normal_(parameter, std=noise)
    return model


def merged_by_hand(tiny: LoadedModel, lora: Any, scale: float) -> Any:
    """A plain, untied model whose weights are W + scale B A, put together from names alone."""
    plain = base_model(tiny, lora.dtype)
    plain.lm_head.weight = nn.Parameter(plain.lm_head.weight.detach().clone())
    plain.config.tie_word_embeddings = False
    found = dict(lora.named_parameters())
    for name, parameter in plain.named_parameters():
        path = name.removesuffix(".weight")
        if f"{path}.lora_A.default.weight" in found:
            a, b = (found[f"{path}.lora_{side}.default.weight"] for side in "AB")
            parameter.data += scale * torch.einsum("or,ri->oi", b, a)
    return plain


def full_formula(model: Any, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from the model's own, whole logits."""
    logits_TV = (
        model(input_ids=batch.input_ids_BL).logits.flatten(0, 1)[batch.positions_T] / TEMPERATURE
    )
    logp_TV = logits_TV.log_softmax(-1)
    return logp_TV.gather(1, batch.targets_T[:, None]).squeeze(1), -(logp_TV.exp() * logp_TV).sum(
        -1
    )


@pytest.mark.parametrize("include_head", [False, True])
def test_scores_are_those_of_a_plain_model_with_merged_weights(
    tiny: LoadedModel, batch: MicroBatch, include_head: bool
) -> None:
    lora = adapted(tiny, include_head=include_head)
    plain = merged_by_hand(tiny, lora, scale=5 / 3)
    found = Policy(lora)(batch, TEMPERATURE, features=True)
    expected = Policy(plain)(batch, TEMPERATURE, features=True)
    for name in ("logps_T", "entropy_T", "features_ND"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9
        )
    if include_head:  # the base's head gives other features: the test can tell
        weight_VD = plain.lm_head.weight - lora.lm_head.base_layer.weight
        assert weight_VD.abs().max() > 0.1


@pytest.mark.parametrize("include_head", [False, True])
def test_gradients_of_the_adapters_are_autograds_through_whole_logits(
    tiny: LoadedModel, batch: MicroBatch, include_head: bool
) -> None:
    lora = adapted(tiny, include_head=include_head)
    weights_T = torch.linspace(-1, 2, batch.targets_T.numel(), dtype=torch.float64)
    trained = {name: p for name, p in lora.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert ("lm_head.lora_A.default.weight" in trained) == include_head
    assert Policy(lora).copies_weights == include_head  # a merged head for every forward
    output = Policy(lora, tile_bytes=1)(batch, TEMPERATURE)
    found = torch.autograd.grad(
        (weights_T * (output.logps_T + 0.3 * output.entropy_T)).sum(), list(trained.values())
    )
    logps_T, entropy_T = full_formula(lora, batch)
    expected = torch.autograd.grad(
        (weights_T * (logps_T + 0.3 * entropy_T)).sum(), list(trained.values())
    )
    for name, a, b in zip(trained, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)
        assert b.abs().max() > 0, name


def test_checkpointing_gives_the_adapters_the_same_gradients(
    tiny: LoadedModel, batch: MicroBatch
) -> None:
    """The base is frozen, so that no input of a recomputed layer would need a gradient by
    itself."""
    grads = []
    for on in (False, True):
        lora = adapted(tiny)
        set_checkpointing(lora, on)
        policy = Policy(lora).train()
        policy(batch).logps_T.sum().backward()
        grads.append([p.grad for p in policy.parameters() if p.requires_grad])
    assert len(grads[0]) == 2 * 7 * tiny.model.config.num_hidden_layers
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_at_the_start_the_policy_is_the_base(tiny: LoadedModel, batch: MicroBatch) -> None:
    base = Policy(base_model(tiny, torch.float32))(batch, features=True)
    found = Policy(adapted(tiny, torch.float32, noise=0, include_head=True))(batch, features=True)
    for name in ("logps_T", "entropy_T", "features_ND"):
        assert torch.equal(getattr(found, name), getattr(base, name)), name


def test_the_reference_is_the_base_bit_for_bit_and_leaves_no_trace(
    tiny: LoadedModel, batch: MicroBatch
) -> None:
    policy = Policy(adapted(tiny, torch.float32, include_head=True))
    before = policy(batch, TEMPERATURE)
    flags = {name: p.requires_grad for name, p in policy.named_parameters()}
    reference = frozen_copy(policy)
    assert isinstance(reference, AdaptersOff)
    assert {id(p) for p in reference.parameters()} == {id(p) for p in policy.parameters()}, (
        "a second copy"
    )
    found = reference(batch, TEMPERATURE, features=True)
    expected = frozen_copy(Policy(base_model(tiny, torch.float32)))(
        batch, TEMPERATURE, features=True
    )
    assert torch.equal(found.logps_T, expected.logps_T)
    assert torch.equal(found.features_ND, expected.features_ND)  # type: ignore[arg-type]
    assert not found.logps_T.requires_grad
    assert {name: p.requires_grad for name, p in policy.named_parameters()} == flags
    assert torch.equal(policy(batch, TEMPERATURE).logps_T, before.logps_T)
    assert not torch.allclose(before.logps_T, expected.logps_T, atol=1e-2)


def test_adapters_come_back_on_after_an_error_and_stay_trained_while_off(tiny: LoadedModel) -> None:
    lora = adapted(tiny)
    ids = torch.arange(1, 9)[None]
    before = lora(ids).logits
    with adapters_off(lora):
        assert all(p.requires_grad == ("lora_" in name) for name, p in lora.named_parameters())
        assert torch.equal(lora(ids).logits, base_model(tiny)(ids).logits)
    assert torch.equal(lora(ids).logits, before)
    with pytest.raises(IndexError), adapters_off(lora):
        lora(ids + 1000)  # no such token
    assert torch.equal(lora(ids).logits, before)


def test_only_adapters_are_optimised_and_the_base_keeps_its_bits(tiny: LoadedModel) -> None:
    policy = Policy(adapted(tiny, torch.float32, noise=0, include_head=True))
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    updater = Updater(
        policy,
        PolicyLoss(kl_coef=0.0),
        OptimizerSettings(lr=1e-2, weight_decay=0.1, mini_batches=1),
        temperature=1.0,
        max_tokens=8,
        seed=0,
        total_updates=2,
    )
    held = {id(p) for group in updater.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in policy.named_parameters() if "lora_" in name}
    for step in (1, 2):
        behaviour = score(policy, SEQUENCES, ScoreRequest(temperature=1.0, token_budget=64))
        advantages_N = torch.tensor([1.0, -1.0, 0.5, 1.0])
        updater.step(
            UpdateBatch(SEQUENCES, torch.tensor([0, 0, 1, 1]), advantages_N, behaviour), step
        )
    moved = {
        name
        for name, tensor in policy.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {name for name in before if "lora_" in name}


def test_adapters_of_a_bfloat16_base_are_float32_and_move(
    tiny: LoadedModel, batch: MicroBatch
) -> None:
    lora = adapted(tiny, torch.bfloat16, noise=0, include_head=True, adapters=torch.float32)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}
    policy = Policy(lora)
    policy(batch).logps_T.sum().backward()
    before = lora.lm_head.lora_A["default"].weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=1e-6)
    nn.init.normal_(lora.lm_head.lora_B["default"].weight)
    policy(batch).logps_T.sum().backward()
    optimizer.step()
    assert not torch.equal(lora.lm_head.lora_A["default"].weight, before)
    assert policy(batch, features=True).features_ND.dtype == torch.float32  # type: ignore[union-attr]


def test_the_engine_samples_with_the_adapters(tiny: LoadedModel) -> None:
    lora = adapted(tiny, torch.float32, noise=0.5, include_head=True)
    plain = merged_by_hand(tiny, lora, scale=5 / 3)
    params = SamplingParams(temperature=0, max_tokens=12)
    drawn = []
    for model in (lora, plain, base_model(tiny, torch.float32)):
        engine = TransformersEngine(Policy(model), tiny.tokenizer, tiny.stop_ids)
        [[completion]] = engine.generate([SEQUENCES.prompts[0]], [(0,)], 1, params)
        drawn.append(completion.token_ids)
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_merged_export_is_a_plain_model(tiny: LoadedModel, tmp_path: Path) -> None:
    lora = adapted(tiny, torch.float32, include_head=True)
    ids = torch.arange(1, 40)[None]
    expected = lora(ids).logits
    save_lora(lora, tmp_path, "merged")
    assert lora.config.tie_word_embeddings, "saving has changed the model"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not has_lora(plain)
    assert not plain.config.tie_word_embeddings, "the embedding has no adapter, the head has"
    torch.testing.assert_close(plain(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(plain.model.embed_tokens.weight, tiny.model.lm_head.weight)
    assert merged_state(lora).keys() == plain.state_dict().keys()


def test_a_merged_export_without_the_head_stays_tied(tiny: LoadedModel, tmp_path: Path) -> None:
    lora = adapted(tiny, torch.float32)
    save_lora(lora, tmp_path, "merged")
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ids = torch.arange(1, 40)[None]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(ids).logits, lora(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("include_head", [False, True])
def test_a_merged_export_of_bfloat16_weights_holds_the_training(
    tiny: LoadedModel, tmp_path: Path, include_head: bool
) -> None:
    """What an update of 1e-5 has learnt is below the resolution of bfloat16."""
    lora = adapted(
        tiny, torch.bfloat16, noise=1e-4, adapters=torch.float32, include_head=include_head
    )
    config = lora.config.to_dict()
    save_lora(lora, tmp_path, "merged")
    assert share_in_export(lora, tmp_path) > 0.999
    assert lora.config.to_dict() == config, "saving has changed the model"
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"

    # the export is the policy that was trained, weight by weight, and not its base
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.dtype == torch.float32
    weights = load_file(tmp_path / "model.safetensors")
    for path, layer in lora_layers(lora):
        base = layer.base_layer.weight.double()
        change = 5 / 3 * layer.lora_B.default.weight.double() @ layer.lora_A.default.weight.double()
        gap = (weights[f"{path}.weight"].double() - base - change).norm()
        assert gap < 1e-3 * change.norm()

    # the same sums rounded to bfloat16 hold next to nothing of it, and are refused
    (tmp_path / "coarse").mkdir()
    coarse = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(coarse, tmp_path / "coarse" / "model.safetensors")
    assert share_in_export(lora, tmp_path / "coarse") < 0.5
    with pytest.raises(CheckpointError, match=r"model\.lora\.export=adapter"):
        _check_export(lora, tmp_path / "coarse")


def test_an_adapter_is_not_merged_into_bfloat16_weights(tiny: LoadedModel, tmp_path: Path) -> None:
    save_lora(adapted(tiny, torch.float32), tmp_path, "adapter")
    with pytest.raises(ValueError, match=r"model\.dtype=float32"):
        load_adapter(base_model(tiny, torch.bfloat16), tmp_path)


def test_a_merged_head_keeps_updates_below_the_resolution_of_its_base(
    tiny: LoadedModel, batch: MicroBatch
) -> None:
    lora = adapted(tiny, torch.bfloat16, noise=1e-4, adapters=torch.float32, include_head=True)
    weight = merged_weight(lora.lm_head)
    assert weight.dtype == torch.float32
    assert (weight - lora.lm_head.base_layer.weight).abs().max() > 0
    assert Policy(lora)(batch).logps_T.dtype == torch.float32


def test_experts_without_adapters_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Stacked experts are no linear layers; the default would leave them out without a word."""
    for model_type in ("qwen3_moe", "mixtral", "gpt_oss"):
        caplog.clear()
        add_lora(tiny_model(model_type), LoraSettings(r=2), "x")
        assert "gate_up_proj" in caplog.text
        assert "stay as they are" in caplog.text
    caplog.clear()
    add_lora(tiny_model("qwen3"), LoraSettings(r=2), "x")
    assert not told_by_g2rl(caplog)


@pytest.mark.parametrize("include_head", [False, True])
def test_an_adapter_export_loads_in_peft_and_here(
    tiny: LoadedModel, tmp_path: Path, include_head: bool
) -> None:
    lora = adapted(tiny, torch.float32, include_head=include_head)
    ids = torch.arange(1, 40)[None]
    save_lora(lora, tmp_path, "adapter")
    assert all(".lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    theirs = peft.PeftModel.from_pretrained(base_model(tiny, torch.float32), tmp_path)
    torch.testing.assert_close(theirs(ids).logits, lora(ids).logits, rtol=1e-5, atol=1e-5)
    ours = base_model(tiny, torch.float32)
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(ours(ids).logits, lora(ids).logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.model.embed_tokens.weight, tiny.model.lm_head.weight)
    assert all(p.requires_grad for p in ours.parameters())
    assert ours.config.tie_word_embeddings != include_head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "only plain LoRA"),
        ({"bias": "all"}, "only plain LoRA"),
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"alora_invocation_tokens": [4, 5], "task_type": "CAUSAL_LM"}, "sets alora_invocation"),
        ({"trainable_token_indices": [3]}, "sets trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "sets layer_replication"),
        ({"target_parameters": ["q_proj.weight"]}, "sets target_parameters"),
        ({"use_qalora": True}, "sets use_qalora"),
        ({"use_what_peft_will_have_one_day": True}, "sets use_what_peft_will"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun with init_lora_weights"),
        ({"init_lora_weights": "orthogonal"}, "begun with init_lora_weights"),
        ({"r": 4}, "size mismatch"),
        ({"target_modules": ["q_proj"]}, "does not fit"),
    ],
)
def test_adapters_that_would_be_merged_wrongly_are_refused(
    tiny: LoadedModel, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_lora(adapted(tiny, torch.float32), tmp_path, "adapter")
    place = tmp_path / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises((ValueError, RuntimeError), match=message):
        load_adapter(base_model(tiny, torch.float32), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 3}, "lora_alpha": 5},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"layers_to_transform": [0]},
    ],
)
def test_plain_adapters_of_peft_compute_what_they_compute_there(
    tiny: LoadedModel, tmp_path: Path, change: dict[str, Any]
) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], **change)
    theirs = peft.get_peft_model(base_model(tiny, torch.float32), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = base_model(tiny, torch.float32)
    load_adapter(ours, tmp_path)
    ids = torch.tensor([[4, 5, 6, 7, 8]])
    with torch.no_grad():
        expected, base = theirs.eval()(ids).logits, base_model(tiny, torch.float32)(ids).logits
        torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - base).abs().max() > 0.1


def test_an_adapter_that_lacks_weights_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    save_lora(adapted(tiny, torch.float32), tmp_path, "adapter")
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file(
        {key: value for key, value in weights.items() if key != name},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(ValueError, match="does not fit"):
        load_adapter(base_model(tiny, torch.float32), tmp_path)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        load_adapter(base_model(tiny, torch.float32), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r >= 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"alpha": 0.0}, "alpha"),
        ({"export": "both"}, "export"),
        ({"include_head": True, "dropout": 0.1}, "dropout=0"),
        ({"target_modules": ["q_prj"]}, "q_prj.*q_proj"),
        ({"target_modules": ["lm_head"]}, "include_head=true"),
        ({"target_modules": []}, "empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tiny: LoadedModel, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(tiny, **settings)


def test_target_modules_are_only_those_named(tiny: LoadedModel) -> None:
    lora = adapted(tiny, target_modules=["q_proj", "v_proj"])
    trained = {
        name.split(".lora_")[0].rsplit(".", 1)[-1]
        for name, p in lora.named_parameters()
        if p.requires_grad
    }
    assert trained == {"q_proj", "v_proj"}


def test_without_peft_the_extra_is_named(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"g2rl\[peft\]"):
        add_lora(base_model(tiny), LoraSettings(r=2), "builtin:tiny")


# the whole job


LORA = ("model.lora.r=4", "model.lora.include_head=true", "model.lr=5e-2", "trainer.steps=3")


def run(folder: Path, *overrides: str) -> float:
    config = composed(*SMOKE, *NO_EVALUATION, *LORA, *overrides)
    return train(config, folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    run(folder)
    return folder


def test_a_checkpoint_holds_the_adapters_alone(finished: Path) -> None:
    weights = load_file(finished / "checkpoints" / "step_000003" / "model.safetensors")
    assert weights
    assert all(".lora_" in name for name in weights)
    assert untimed_rows(finished)[-1]["update/kl"] > 1e-4, (
        "the policy has not left the base, or the reference went along"
    )


def test_resume_repeats_the_uninterrupted_run_bit_for_bit(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingStep.__call__

    def interrupted(self: TrainingStep, number: int) -> dict[str, float]:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(TrainingStep, "__call__", step)
    run(tmp_path)
    assert untimed_rows(tmp_path) == untimed_rows(finished)
    for place in ("checkpoints/step_000003/model.safetensors", "model/model.safetensors"):
        assert (tmp_path / place).read_bytes() == (finished / place).read_bytes()


def test_both_exports_are_evaluated_as_the_same_model(finished: Path, tmp_path: Path) -> None:
    run(tmp_path, "model.lora.export=adapter")
    assert not (tmp_path / "model" / "model.safetensors").exists()
    ids = torch.arange(1, 40)[None]
    logits = []
    for folder in (finished, tmp_path):
        node = OmegaConf.merge(model_of_run(folder, []), {"device": "cpu"})
        loaded = load_model(read_model_settings(node))  # type: ignore[arg-type]
        assert not has_lora(loaded.model)
        logits.append(loaded.model(ids).logits)
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(
        logits[0], load("builtin:tiny", device="cpu").model(ids).logits, atol=0.1
    )


def test_an_adapter_export_needs_a_base_that_can_be_found_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export=merged"):
        run(tmp_path, "model.lora.export=adapter", "model.random_init=true")


def test_the_command_trains_an_adapter(tmp_path: Path) -> None:
    settings = [*EVERYTHING, *NO_EVALUATION, "trainer.steps=1", "model.lora.r=4"]
    words = ["-m", "g2rl.cli.train", *settings, "hydra.run.dir=out"]
    result = commands.run(words, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
