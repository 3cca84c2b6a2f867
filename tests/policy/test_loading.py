"""Finding models, resolving stop tokens, encoding prompts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils

from g2rl.policy.anatomy import UnsupportedModelError, text_config
from g2rl.policy.loading import (
    ModelError,
    apply_overrides,
    build,
    forget_quantization,
    load,
    quiet_transformers,
    read_config,
    resolve_source,
    resolve_stop_ids,
)
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.countdown_policy import build_tokenizer
from tests.models.zoo import tiny_config


def tokenizer(**changes: object) -> SimpleNamespace:
    vocabulary = {"<|endoftext|>": 1, "<|im_end|>": 2, "a": 3}
    fields: dict[str, object] = {
        "get_vocab": lambda: vocabulary,
        "eos_token_id": 1,
        "chat_template": "{{ messages[0].content }}<|im_end|>",
    }
    return SimpleNamespace(**{**fields, **changes})


def model(eos: object) -> SimpleNamespace:
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))


def test_a_base_model_also_stops_at_the_end_of_turn_of_its_template() -> None:
    assert resolve_stop_ids(model(1), tokenizer()) == [1, 2]
    assert resolve_stop_ids(model([2, 1]), tokenizer()) == [2, 1]
    assert resolve_stop_ids(model(1), tokenizer(chat_template="plain")) == [1]


def test_explicit_stop_tokens_win_and_must_exist() -> None:
    assert resolve_stop_ids(model(1), tokenizer(), ["a"]) == [3]
    with pytest.raises(ModelError, match="nonsense"):
        resolve_stop_ids(model(1), tokenizer(), ["nonsense"])
    with pytest.raises(ModelError, match="no stop token"):
        resolve_stop_ids(model(None), tokenizer(eos_token_id=None, chat_template=None))


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        (None, [1, 2]),
        ([], [1, 2]),
        (-1, [1, 2]),
        ([3], [3, 1, 2]),
        ([3, 3], [3, 1, 2]),
        ((3, -1), [3, 1, 2]),
        ([3, 2], [3, 2, 1]),
        ([1, None], [1, 2]),
    ],
)
def test_end_tokens_may_be_declared_in_any_form(eos: object, expected: list[int]) -> None:
    assert resolve_stop_ids(model(eos), tokenizer()) == expected


@pytest.mark.parametrize("eos", ["</s>", "1", [[1]], 1.0, True])
def test_end_tokens_that_are_no_ids_are_refused(eos: object) -> None:
    with pytest.raises(ModelError, match="eos_token_id="):
        resolve_stop_ids(model(eos), tokenizer())


def test_an_adapter_in_the_place_of_a_model_is_refused(tmp_path: Path) -> None:
    # transformers would load the base that the adapter names and freeze it
    folder = tmp_path / "model"
    shutil.copytree(resolve_source("builtin:tiny"), folder)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": resolve_source("builtin:tiny")}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match=r"holds a LoRA adapter.*as model\.adapter"):
        read_config(str(folder))
    with pytest.raises(ModelError, match="holds a LoRA adapter"):
        load(str(folder), device="cpu")


def test_sources_are_named_when_missing(tmp_path: Path) -> None:
    assert Path(resolve_source("builtin:tiny")).is_dir()
    with pytest.raises(ModelError, match="no built-in"):
        resolve_source("builtin:huge")
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package"):
        resolve_source("package:no_such_package")
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(str(tmp_path))
    with pytest.raises(ModelError, match="float32"):
        load("builtin:tiny", dtype="float16")


def test_damaged_and_incomplete_weights_are_refused(tmp_path: Path) -> None:
    """transformers alone draws what is missing at random, and says so in a log at most."""
    shutil.copytree(resolve_source("builtin:tiny"), tmp_path / "tiny")
    file = tmp_path / "tiny" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "layers.0" in name)
    save_file({k: v for k, v in weights.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lacks 1 of the model's weights .first: {name}"):
        load(str(tmp_path / "tiny"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"cannot load model.source={tmp_path / 'tiny'}"):
        load(str(tmp_path / "tiny"))
    (tmp_path / "tiny" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load"):
        load(str(tmp_path / "tiny"))


def test_the_tiny_policy_is_what_the_readme_says() -> None:
    loaded = load("builtin:tiny")
    assert 0.45e6 < sum(p.numel() for p in loaded.model.parameters()) < 0.5e6
    assert len(loaded.tokenizer) == 84
    assert next(loaded.model.parameters()).dtype == torch.float32
    folder = Path(resolve_source("builtin:tiny"))
    assert sum(p.stat().st_size for p in folder.iterdir()) < 4e6
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.stop_ids) == ["<eos>"]


def test_prompts_go_through_the_chat_template() -> None:
    words = build_tokenizer()
    ids = encode_prompt(words, "use 3 7 2 make 13 :", chat=True)
    assert words.decode(ids) == "<bos> use 3 7 2 make 13 :"
    with pytest.raises(ModelError, match="cannot encode"):
        encode_prompt(words, "What is 2 + 2 ?", chat=True)
    with pytest.raises(ModelError, match="max_prompt_tokens=4"):
        encode_prompt(words, "use 3 7 2 make 13 :", chat=True, max_tokens=4)
    words.chat_template = None
    with pytest.raises(ModelError, match=r"model\.chat=false"):
        encode_prompt(words, "use 3", chat=True)


def test_a_head_that_is_not_linear_in_the_hidden_state_is_refused() -> None:
    loaded = load("builtin:tiny")
    policy = Policy(loaded.model)
    policy.check_head()
    forward = loaded.model.forward

    def capped(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = 5.0 * torch.tanh(output.logits / 5.0)
        return output

    loaded.model.forward = capped
    with pytest.raises(ValueError, match="soft-capped"):
        policy.check_head()


@pytest.mark.parametrize("random_init", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "musicgen"}, "cannot build MusicgenForCausalLM .*dropout.*train another"),
        ({"model_type": "t5"}, "T5Config is the configuration of no causal LM"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_act": "sinus"}, "cannot build Qwen3ForCausalLM .*KeyError: 'sinus'"),
        ({"num_attention_heads": 0}, "cannot build Qwen3ForCausalLM .*ZeroDivisionError"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
    ],
)
def test_what_transformers_cannot_build_is_refused_by_name(
    change: dict[str, object], message: str, random_init: bool, tmp_path: Path
) -> None:
    """Each raises an exception of another kind, some of them of no usual one."""
    folder = shutil.copytree(resolve_source("builtin:tiny"), tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"cannot load model.source={folder}: .*{message}"):
        load(str(folder), random_init=random_init)


def test_a_package_that_a_model_wants_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Gemma 3n says without timm, where timm may be installed."""

    def from_config(*_: object, **__: object) -> None:
        raise ImportError("\nTimmWrapperModel requires the timm library:\n`pip install timm`.")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", from_config)
    expected = "cannot build Gemma3nForConditionalGeneration .*requires the timm library: `pip"
    with pytest.raises(UnsupportedModelError, match=expected):
        build(tiny_config("gemma3n"))


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(resolve_source("builtin:tiny"), tmp_path / "changed")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=f"cannot load model.source={folder}: "):
        load(str(folder))


def test_weights_of_another_shape_are_named() -> None:
    with pytest.raises(ModelError, match=r"o_proj.weight, of shape \(\d+, \d+\) instead of"):
        load("builtin:tiny", overrides={"num_attention_heads": 7})


def test_random_weights_of_another_shape() -> None:
    loaded = load(
        "builtin:tiny",
        random_init=True,
        overrides={"num_hidden_layers": 1, "layer_types": ["full_attention"]},
    )
    assert len(loaded.model.model.layers) == 1


def test_a_seed_fixes_random_weights_and_what_is_drawn_after_them() -> None:
    def draw(seed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        loaded = load("builtin:tiny", random_init=True, seed=seed)
        return loaded.model.get_output_embeddings().weight, torch.rand(3)

    (weight, later), (weight_again, later_again) = draw(7), draw(7)
    assert torch.equal(weight, weight_again)
    assert torch.equal(later, later_again), "adapters are drawn from the same generator"
    assert not torch.equal(weight, draw(8)[0])
    assert not torch.equal(weight, draw(None)[0])


def test_without_a_seed_the_random_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    load("builtin:tiny")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_from_a_gguf_file_can_be_saved(tmp_path: Path) -> None:
    """transformers refuses to save a model loaded from GGUF, although its weights are plain
    floats."""
    loaded = load("builtin:tiny").model
    loaded.hf_quantizer = SimpleNamespace(
        is_serializable=lambda: False, quantization_config=SimpleNamespace(quant_method="gguf")
    )
    with pytest.raises(ValueError, match="not serializable"):
        loaded.save_pretrained(tmp_path / "refused")
    forget_quantization(loaded)
    loaded.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_overrides_find_a_name_in_either_part_of_a_configuration() -> None:
    config = tiny_config("gemma3")
    apply_overrides(
        config,
        {
            "num_hidden_layers": 2,
            "mm_tokens_per_image": 4,
            "vision_config": {"num_hidden_layers": 3},
        },
        "model.overrides",
    )
    assert config.text_config.num_hidden_layers == 2
    assert config.mm_tokens_per_image == 4
    assert config.vision_config.num_hidden_layers == 3
    with pytest.raises(ModelError, match=r"num_hiden_layers.*num_hidden_layers"):
        apply_overrides(config, {"num_hiden_layers": 2}, "model.overrides")
    with pytest.raises(ModelError, match=r"vision_config\.colour: .*VisionConfig"):
        apply_overrides(config, {"vision_config": {"colour": 1}}, "model.overrides")


@pytest.mark.parametrize(
    ("model_type", "layers", "types"),
    [("qwen3", 2, 2), ("qwen3", 6, 6), ("gpt_oss", 3, 3), ("gemma3", 1, 1), ("deepseek_v3", 6, 0)],
)
def test_an_export_with_other_layers_can_be_loaded(
    model_type: str, layers: int, types: int, tmp_path: Path
) -> None:
    """Lists with a value for each layer go with them."""
    tiny_config(model_type).save_pretrained(tmp_path)
    config = read_config(str(tmp_path), overrides={"num_hidden_layers": layers})
    build(config).save_pretrained(tmp_path / "export")
    text = text_config(read_config(str(tmp_path / "export")))
    assert text.num_hidden_layers == layers
    assert len(getattr(text, "layer_types", None) or []) == types


@pytest.mark.parametrize(
    ("model_type", "overrides", "message"),
    [
        ("gpt_oss", {"num_hidden_layers": 6}, "GptOssConfig.*layer_types"),
        ("gemma4_text", {"num_hidden_layers": 2}, "Gemma4TextConfig.*per_layer_config"),
        ("qwen3", {"layer_types": ["full_attention"]}, "Qwen3Config.*layer_types"),
    ],
)
def test_overrides_of_which_an_export_could_not_be_loaded_are_refused(
    model_type: str, overrides: dict[str, object], message: str, tmp_path: Path
) -> None:
    tiny_config(model_type).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"model.overrides contradict the rest of the {message}"):
        read_config(str(tmp_path), overrides=overrides)


@pytest.mark.parametrize("value", ["wide", 2.5, None])
def test_an_override_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(ModelError, match=r"model\.overrides\.hidden_size="):
        load("builtin:tiny", overrides={"hidden_size": value})


def test_a_misspelt_override_is_refused_when_a_model_is_loaded() -> None:
    with pytest.raises(ModelError, match="did you mean attention_dropout"):
        load("builtin:tiny", overrides={"atention_dropout": 0.1})


def test_no_bar_of_a_gguf_file_is_drawn_while_a_model_loads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def through_a_bar() -> str:
        list(modeling_gguf_pytorch_utils.tqdm(range(3), desc="Converting"))
        return capsys.readouterr().err

    assert "Converting" in through_a_bar(), "where transformers draws it"
    with quiet_transformers():
        assert through_a_bar() == ""
    assert "Converting" in through_a_bar(), "as it was"


def test_a_path_that_leads_to_no_model_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("")
    for path, fault in (
        (tmp_path, "holds no config.json"),
        (tmp_path / "weights.bin", "is a file"),
    ):
        told = re.escape(
            f"model.source={path} {fault}: name a folder in Hugging Face format; a run"
        )
        for reader in (load, read_config):
            with pytest.raises(ModelError, match=told):
                reader(str(path))
