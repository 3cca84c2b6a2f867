"""The paper's recipes, as the model sees them: prompts as rendered strings, graders, schedules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.cli.build.settings import read_model_settings, read_train_settings
from g2rl.cli.config.names import instruction_beside
from g2rl.policy.loading import ModelError, load
from g2rl.policy.prompts import encode_prompt, messages_of, set_system_prompt
from g2rl.tasks.math import PAPER_INSTRUCTION
from g2rl.types import Problem
from tests.support import composed

# the turns of Qwen's template, without its tools
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GOLDEN = """\
<|im_start|>system
Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>
<|im_start|>user
What is $2+3$?<|im_end|>
<|im_start|>assistant
"""
GOLDEN_OF_THE_TASK = """\
<|im_start|>user
What is $2+3$?
Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>
<|im_start|>assistant
"""


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Local copies of MATH and MATH500 with one problem each."""
    for name, text in (("math_train", "What is $2+3$?"), ("math500", "What is $2+4$?")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"problem": text, "answer": "5"}) + "\n")
    return f"data_dir={tmp_path}"


def rendered(system_prompt: str | None, text: str) -> str:
    """What a model with Qwen's template is given."""
    tokenizer = load("builtin:tiny", device="cpu").tokenizer
    tokenizer.chat_template = CHATML
    set_system_prompt(tokenizer, system_prompt)
    return tokenizer.apply_chat_template(
        messages_of(tokenizer, text), tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("recipe", ["paper_1_7b", "paper_4b"])
def test_the_instruction_is_the_system_turn_and_stands_nowhere_else(recipe: str, data: str) -> None:
    config = composed(f"experiment={recipe}", data)
    system_prompt = read_model_settings(config.model).system_prompt
    assert system_prompt == PAPER_INSTRUCTION
    task = instantiate(config.task.source)
    assert rendered(system_prompt, task.problems[0].prompt) == GOLDEN
    [benchmark] = build_benchmarks(config.benchmark)
    held_out = rendered(system_prompt, benchmark.problems[0].prompt)
    assert held_out == GOLDEN.replace("2+3", "2+4")


def test_without_a_system_prompt_the_task_says_it(data: str) -> None:
    config = composed("task=math", data)
    task = instantiate(config.task.source)
    assert rendered(config.model.system_prompt, task.problems[0].prompt) == GOLDEN_OF_THE_TASK


def test_a_system_prompt_about_other_things_leaves_the_instruction(data: str) -> None:
    config = composed("task=math", "model.system_prompt='Be brief.'", data)
    prompt = instantiate(config.task.source).problems[0].prompt
    assert prompt.endswith(PAPER_INSTRUCTION)
    assert rendered("Be brief.", prompt).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert instruction_beside(None) is None
    assert instruction_beside("Use \\boxed{}") == ""


@pytest.mark.parametrize("recipe", ["paper_1_7b", "paper_4b"])
def test_an_answer_outside_a_box_counts_as_none(recipe: str, data: str) -> None:
    config = composed(f"experiment={recipe}", data)
    [benchmark] = build_benchmarks(config.benchmark)
    problem = Problem("p", "", "5")
    for verifier in (instantiate(config.task.source).verifier, benchmark.verifier):
        assert verifier.grade("The answer is \\boxed{5}.", problem).correct
        assert not verifier.grade("So the answer is 5", problem).correct


def test_the_constants_of_the_recipes(data: str) -> None:
    settings = read_train_settings(composed("experiment=paper_1_7b", data))
    trainer, optimizer = settings.trainer, settings.optimizer
    assert (trainer.prompts_per_step, trainer.group_size, trainer.steps) == (16, 16, 200)
    assert (optimizer.lr, settings.loss.kl_coef) == (5e-7, 0.001)
    assert trainer.sampling.max_tokens == 8192
    four = read_train_settings(composed("experiment=paper_4b", data)).trainer
    assert four.sampling.max_tokens == 12288

    # EVOL-RL's public script: warm-up over 3 % of the updates, cosine, top-p 0.95 in validation
    assert optimizer.warmup_updates == pytest.approx(0.03 * settings.total_updates)
    assert optimizer.schedule == "cosine"
    benchmark = composed("experiment=paper_1_7b", data).benchmark
    assert (benchmark.temperature, benchmark.top_p) == (0.8, 0.95)


def test_a_system_prompt_needs_a_template_that_knows_it() -> None:
    with pytest.raises(ValueError, match=r"model\.system_prompt needs a chat template"):
        read_model_settings(composed("model.system_prompt=x", "model.chat=false").model)

    # some templates pass over a system turn
    tokenizer = load("builtin:tiny", device="cpu").tokenizer
    tokenizer.chat_template = "{{ messages[-1].content }}"
    set_system_prompt(tokenizer, "x")
    with pytest.raises(ModelError, match=r"leaves out model\.system_prompt"):
        encode_prompt(tokenizer, "use 3", chat=True)

    # and some say that they cannot render one
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    set_system_prompt(tokenizer, "x")
    with pytest.raises(ModelError, match="System role not supported"):
        encode_prompt(tokenizer, "use 3", chat=True)
