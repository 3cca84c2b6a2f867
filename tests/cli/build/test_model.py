"""Before the first rollout: lengths that do not fit, engines that could not notice a fault."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from g2rl.cli.build.model import check_benchmark_prompts, check_context, model_of_run
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.engines.vllm import refuse_rough_experts
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.training.memory_plan import shape_of
from g2rl.types import Problem, SamplingParams
from tests.models.zoo import tiny_config, tiny_model
from tests.support import composed


def held_out(tokens: int) -> Any:
    """A benchmark of one problem, whose prompt is eight tokens of the tiny policy."""
    return SimpleNamespace(
        name="held_out",
        problems=[Problem("a", "use 3 7 2 make 13 :", "13")],
        params=SamplingParams(max_tokens=tokens),
    )


def test_an_evaluation_longer_than_the_positions_is_refused(tiny: LoadedModel) -> None:
    benchmarks: list[Benchmark] = [held_out(504)]
    check_benchmark_prompts(benchmarks, tiny.tokenizer, True, tiny.model.config)
    with pytest.raises(ValueError, match=r"held_out.*\(8 tokens\).*\(505\) = 513.*512 positions"):
        check_benchmark_prompts([held_out(505)], tiny.tokenizer, True, tiny.model.config)
    short = tiny_config("gpt2", n_positions=16, max_position_embeddings=16)
    with pytest.raises(ValueError, match="16 positions"):
        check_benchmark_prompts([held_out(9)], tiny.tokenizer, True, short)


def test_a_token_without_an_embedding_is_refused(tiny: LoadedModel) -> None:
    # a chat token that was added to the tokenizer alone
    small = tiny_config("llama", vocab_size=20)
    with pytest.raises(ValueError, match=r"hold the token '.*' \(\d+\).* embeddings of 20 tokens"):
        check_benchmark_prompts([held_out(9)], tiny.tokenizer, True, small)


def test_the_positions_of_a_nested_configuration_count() -> None:
    check_context(tiny_config("gemma3"), 512)
    with pytest.raises(ValueError, match="513, over the model's 512 positions"):
        check_context(tiny_config("gemma3"), 513)


def test_texts_longer_than_the_switch_of_longrope_are_refused() -> None:
    long = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = tiny_config(
        "phi3",
        original_max_position_embeddings=24,
        rope_parameters={**long, "original_max_position_embeddings": 24, "rope_theta": 1e4},
    )
    check_context(config, 24)
    with pytest.raises(ValueError, match=r"25, over the 24 tokens .*longrope.*lower one of them"):
        check_context(config, 25)


def test_g2rl_eval_refuses_it_before_it_samples(tmp_path: Path) -> None:
    config = composed(
        "tracking=local", "benchmark.problems=2", "benchmark.max_tokens=700", command="evaluate"
    )
    with pytest.raises(ValueError, match=r"benchmark countdown.*lower benchmark\.max_tokens"):
        evaluate(config, tmp_path / "evaluation")


def test_experts_under_vllm_are_refused_where_rounding_would_hide_a_fault() -> None:
    experts, dense = Policy(tiny_model("qwen3_moe")), Policy(tiny_model("qwen3"))
    with pytest.raises(ValueError, match=r"Qwen3MoeForCausalLM.*engine=transformers"):
        refuse_rough_experts(experts, "bfloat16")
    refuse_rough_experts(experts, "float32")
    refuse_rough_experts(dense, "bfloat16")


def test_a_memory_plan_of_a_nested_configuration_and_none_of_mixed_layers() -> None:
    config = tiny_config("gemma3")
    shape = shape_of(config)
    assert (shape.layers, shape.width, shape.vocabulary) == (4, 32, 160)
    with pytest.raises(ValueError, match=r"gemma4_text; plan=off"):
        shape_of(tiny_config("gemma4_text"))


@pytest.mark.parametrize("rank", [None, 4])
def test_what_adapters_have_learnt_is_evaluated_in_float32(
    tmp_path: Path, rank: int | None
) -> None:
    """Rounded to the dtype of the run, most of it would be gone again."""
    config = composed("model.dtype=bfloat16", "model.compute_dtype=bfloat16")
    config.model.lora.r = rank
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (tmp_path / "model").mkdir()
    node = model_of_run(tmp_path, [])
    expected = ("bfloat16", "bfloat16") if rank is None else ("float32", None)
    assert (node.dtype, node.compute_dtype) == expected
    assert model_of_run(tmp_path, ["model.dtype=bfloat16"]).dtype == "bfloat16", "typed"
