"""Policy lag: against a loop with two models, resumed, and where it is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.jobs.train import train
from g2rl.engines.rollouts import Rollouts
from g2rl.engines.transformers import TransformersEngine
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.policy.loading import LoadedModel, load
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.countdown import Countdown
from g2rl.tasks.grading.grader import Grader
from g2rl.training.alarms import HealthLimits, alarms
from g2rl.training.disk import DiskPlan
from g2rl.training.policy_lag import LaggedSampler, PastWeights
from g2rl.training.stages import TRAIN_STREAM, Sampler
from g2rl.training.step import TrainingStep
from g2rl.types import Completion, Problem, SamplingParams
from tests.support import NO_EVALUATION, SMOKE, composed, metric_rows, untimed_rows

STEPS, PROMPTS, GROUP, MAX_TOKENS = 3, 4, 4, 24
LR, EPS = 0.5, 1.0  # Adam with this eps is nearly linear in the gradient, so rounding stays small
PLAIN = (
    *SMOKE,
    *NO_EVALUATION,
    f"trainer.steps={STEPS}",
    f"trainer.prompts_per_step={PROMPTS}",
    f"trainer.group_size={GROUP}",
    f"task.max_response_tokens={MAX_TOKENS}",
    "trainer.tables_every=0",
    "exploration=none",
    "algorithm.kl_coef=0",
    "optimizer.mini_batches=1",
    f"optimizer.lr={LR}",
    f"optimizer.eps={EPS}",
)


# --- against a loop with two models


def logps_of(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """Log-probabilities of the tokens of one response, from the model's own logits."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logps[torch.arange(len(response)), torch.tensor(response)]


def token_loss(now: Tensor, drawn: Tensor, advantage: Tensor) -> Tensor:
    """PPO's clipped surrogate around the present policy, weighed by min(pi / q, 2)."""
    ratio = (now - now.detach()).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return -surrogate * (now.detach() - drawn).exp().clamp(max=2.0)


def two_models(lag: int) -> tuple[dict[str, Tensor], list[float]]:
    """GRPO with one model that trains and another one that draws, token by token.

    Returns:
        The trained weights, and the k3 estimate of KL(q || pi) of every step.
    """
    loaded = load("builtin:tiny")
    trained, drawing = loaded.model, copy.deepcopy(loaded.model)
    engine = TransformersEngine(Policy(drawing), loaded.tokenizer, loaded.stop_ids)
    optimizer = torch.optim.AdamW(
        trained.parameters(), LR, betas=(0.9, 0.95), eps=EPS, weight_decay=0.0
    )
    task, params = Countdown(), SamplingParams(temperature=1.0, max_tokens=MAX_TOKENS)
    grader, began_with, kls = Grader(task.verifier), [], []
    for step in range(1, STEPS + 1):
        began_with.append(copy.deepcopy(trained.state_dict()))
        drawing.load_state_dict(began_with[max(0, step - 1 - lag)])

        problems = task.batch(0, (step - 1) * PROMPTS, PROMPTS)
        prompts = [encode_prompt(loaded.tokenizer, p.prompt, chat=True) for p in problems]
        keys = [(0, TRAIN_STREAM, step, place) for place in range(PROMPTS)]
        rollouts = Rollouts(problems, prompts, engine.generate(prompts, keys, GROUP, params))
        rewards = torch.tensor([verdict.reward for verdict in grader.grade(rollouts.items)])
        rewards_PG = rewards.reshape(PROMPTS, GROUP)
        advantages = GroupAdvantage()(rewards_PG, rewards_PG)[0].flatten()

        losses, gaps = [], []
        for n, response in enumerate(rollouts.sequences.responses):
            prompt = rollouts.sequences.prompts[n]
            now = logps_of(trained, prompt, response)
            with torch.no_grad():
                drawn = logps_of(drawing, prompt, response)
            losses.append(token_loss(now, drawn, advantages[n]))
            gaps.append(now.detach() - drawn)
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        gap = torch.cat(gaps)
        kls.append(float((gap.exp() - gap - 1).mean()))
    return dict(trained.state_dict()), kls


def test_a_lagged_run_is_a_loop_with_two_models(tmp_path: Path) -> None:
    train(composed(*PLAIN, "trainer.lag=1"), tmp_path)
    found = load_file(tmp_path / "checkpoints" / f"step_{STEPS:06d}" / "model.safetensors")
    expected, kls = two_models(lag=1)
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)

    # the oracle can tell the two apart
    without, _ = two_models(lag=0)
    assert max(float((without[n] - expected[n]).abs().max()) for n in found) > 1e-3

    rows = metric_rows(tmp_path)[1:]
    assert [row["sample/lag"] for row in rows] == [0, 1, 1]
    assert [row["update/sampler_kl"] for row in rows] == pytest.approx(kls, abs=1e-5)
    assert kls[1] > 1e-4


def test_without_lag_nothing_is_as_it_was_not(finished_run: Path) -> None:
    """No log-probs of a sampler, no weight in the loss, nothing in the checkpoint."""
    assert not any("sample/lag" in row for row in metric_rows(finished_run))
    assert not any("update/sampler_kl" in row for row in metric_rows(finished_run))
    place = finished_run / "checkpoints" / "step_000003" / "training.pt"
    assert "lag" not in torch.load(place, weights_only=True)


# --- resumed


@pytest.fixture(scope="module")
def lagged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four uninterrupted steps with a lag of two, two updates each, and features."""
    folder = tmp_path_factory.mktemp("lagged")
    train(composed(*LAGGED), folder)
    return folder


LAGGED = (*SMOKE, *NO_EVALUATION, "trainer.steps=4", "trainer.lag=2", "exploration=g2rl")


@pytest.mark.parametrize("stop_before", [2, 4])
def test_a_killed_and_continued_run_is_the_uninterrupted_one(
    lagged_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_before: int
) -> None:
    step = TrainingStep.__call__

    def interrupted(self: TrainingStep, number: int) -> dict[str, float]:
        if number == stop_before:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(composed(*LAGGED), tmp_path)
    monkeypatch.setattr(TrainingStep, "__call__", step)
    train(composed(*LAGGED), tmp_path)
    assert untimed_rows(tmp_path) == untimed_rows(lagged_run)
    place = Path("checkpoints/step_000004/model.safetensors")
    assert (tmp_path / place).read_bytes() == (lagged_run / place).read_bytes()


def test_a_checkpoint_holds_the_weights_of_the_last_steps(lagged_run: Path) -> None:
    checkpoint = lagged_run / "checkpoints" / "step_000004"
    past = torch.load(checkpoint / "training.pt", weights_only=True)["lag"]["weights_of"]
    assert set(past) == {3, 4}
    before = load_file(lagged_run / "checkpoints" / "step_000003" / "model.safetensors")
    assert all(torch.equal(past[4][name], before[name]) for name in before)


# --- the weights


def past_of(policy: Policy, lag: int) -> tuple[PastWeights, list[Tensor]]:
    """Past weights of a policy, and what an engine is pushed: the policy's first weight."""
    pushed: list[Tensor] = []
    first = next(weight for weight in policy.parameters() if weight.requires_grad)

    class Engine:
        reports_logps = False

        def push_weights(self) -> None:
            pushed.append(first.detach().clone())

    return PastWeights(policy, Engine(), lag), pushed  # type: ignore[arg-type]


@pytest.mark.parametrize("lora", [False, True])
def test_past_weights_are_pushed_and_the_present_ones_come_back(
    tiny: LoadedModel, lora: bool
) -> None:
    model = copy.deepcopy(tiny.model)
    if lora:
        pytest.importorskip("peft")
        add_lora(model, LoraSettings(r=2), "builtin:tiny")
    policy = Policy(model)
    past, pushed = past_of(policy, lag=2)
    weight = next(weight for weight in policy.parameters() if weight.requires_grad)
    values: list[Tensor] = []
    for step in range(1, 6):
        values.append(weight.detach().clone())
        for _ in range(2):  # dynamic sampling draws several times in a step
            with past.behind(step):
                assert torch.equal(weight, values[max(0, step - 3)])
        assert torch.equal(weight, values[-1])
        weight.data.add_(1.0 / 3)
    assert [float(value.flatten()[0]) for value in pushed] == [
        float(values[place].flatten()[0]) for place in (0, 0, 0, 0, 1, 1, 2, 2)
    ]

    stored = past.state_dict()["weights_of"]
    assert set(stored) == {4, 5}
    if lora:
        assert all("lora_" in name for name in stored[5])


def test_the_present_weights_come_back_even_if_sampling_fails(tiny: LoadedModel) -> None:
    policy = Policy(copy.deepcopy(tiny.model))
    past, _ = past_of(policy, lag=1)
    weight = next(policy.parameters())
    with past.behind(1):
        pass
    weight.data.add_(1.0)
    present = weight.detach().clone()
    with pytest.raises(RuntimeError, match="no tokens"), past.behind(2):
        raise RuntimeError("no tokens")
    assert torch.equal(weight, present)


def test_log_probs_that_an_engine_reports_are_kept(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    past, _ = past_of(Policy(copy.deepcopy(tiny.model)), lag=1)
    rollouts = Rollouts([Problem("a", "", "")], [[1]], [[Completion([2], "stop", "", [-0.5])]])
    monkeypatch.setattr(Sampler, "draw", lambda *_: rollouts)
    sampler = object.__new__(LaggedSampler)
    sampler.past, sampler.engine = past, past.engine
    past.engine.reports_logps = True
    assert sampler.draw(1, 0, 0, 1) is rollouts


# --- what it takes, and what is refused


def test_disk_and_alarms_know_of_it() -> None:
    assert DiskPlan(10, 10, 4, kept=2, past=3).checkpoint == 10 * 4 * (1 + 3 + 2)
    row = {"update/sampler_kl": 1.0}
    limits = HealthLimits(window=1)
    assert "sampler_mismatch" in alarms([row], limits)
    assert "sampler_mismatch" not in alarms([{**row, "sample/lag": 1.0}], limits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.lag=-1"], "trainer.lag must be >= 0"),
        (["trainer.lag=1", "parallel=fsdp"], "trainer.lag=1 with parallel=fsdp"),
        (["trainer.lag=2", "task.top_p=0.9"], "trainer.lag=2 with task.top_p=0.9"),
        (["trainer.lag=2", "task.top_k=5"], "drawn from a truncated one"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_train_settings(composed(*SMOKE, *words))


def test_truncated_responses_may_lag_without_correction() -> None:
    words = ("trainer.lag=1", "task.top_p=0.9", "algorithm.sampler_correction=none")
    assert read_train_settings(composed(*SMOKE, *words)).trainer.lag == 1


def test_a_checkpoint_without_the_weights_is_refused(tiny: LoadedModel) -> None:
    past, _ = past_of(Policy(copy.deepcopy(tiny.model)), lag=2)
    past.load_state_dict({}, done=0)  # nothing is behind the start
    with pytest.raises(ValueError, match=r"holds weights of the steps \[\], not of \[4, 5\]"):
        past.load_state_dict({}, done=5)
