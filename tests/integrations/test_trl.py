"""Signals inside TRL's GRPOTrainer: what they see, what TRL makes of them, what is refused."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")
from trl import GRPOTrainer, RLOOTrainer

from g2rl.cli.config.choices import choices
from g2rl.exploration import GroupBatch, Shaped
from g2rl.exploration.cde import CuriosityBonus
from g2rl.exploration.combined import Combined
from g2rl.exploration.entropy import EntropyBonus
from g2rl.exploration.g2rl import GradientGuided
from g2rl.exploration.none import NoExploration
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.integrations.rewards import VerifierReward, rows_of
from g2rl.integrations.trl import ExplorationGRPOTrainer
from g2rl.integrations.trl_rloo import ExplorationRLOOTrainer
from g2rl.policy.batching import Sequences
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, Scores, score
from g2rl.tasks.countdown import Countdown
from tests import commands
from tests.integrations import small_trl
from tests.integrations.small_trl import (
    COUNT,
    GROUP,
    RIGHT,
    Watch,
    one_batch,
    rows_of_a_step,
    trainer,
    weights,
)
from tests.whole.parallel.twins import free_ports

TAU = 0.8
PLANS = "plans single tokens"
REFUSED = {
    "clip_cov": PLANS,
    "combined": PLANS,
    "entropy_advantage": PLANS,
    "forking_tokens": PLANS,
    "kl_cov": PLANS,
}
"""Signals that TRL's loss has no place for."""
SEEN = ("features", "entropy", "logps", "hidden", "token_entropy")


def sequences(made: Any) -> Sequences:
    prompts, ids = made._sampled
    return Sequences(prompts, ids)


def g2rl_scores(model: Any, made: Any, temperature: float | None = None) -> Scores:
    """The same responses, scored by g2rl's own policy on another copy of the model."""
    request = ScoreRequest(TAU, 4096, True, temperature, hidden=True)
    return score(Policy(copy.deepcopy(model)), sequences(made), request)


def close(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def shaping(offset: Callable[[GroupBatch], Tensor]) -> Callable[[GroupBatch], Shaped]:
    return lambda batch: Shaped(batch.rewards_PG + offset(batch))


def ramp(batch: GroupBatch) -> Tensor:
    """Something that differs from response to response."""
    return 0.1 * torch.arange(1.0, 1.0 + batch.rewards_PG.numel()).view_as(batch.rewards_PG)


# --- what a signal sees


def test_what_the_policy_says_equals_g2rls_own_scoring(tiny: LoadedModel, tmp_path: Path) -> None:
    watch = Watch(*SEEN, "advantages", "texts", "problem_ids")
    made = trainer(tiny, tmp_path, signal=watch, feature_temperature=0.6)
    one_batch(made)
    [batch] = watch.batches
    expected = g2rl_scores(tiny.model, made, 0.6)
    assert expected.features_ND is not None
    assert expected.hidden_ND is not None
    assert batch.features_PGD is not None
    close(batch.features_PGD.flatten(0, 1), expected.features_ND)
    assert float(expected.features_ND.norm(dim=-1).min()) > 1e-3
    assert batch.hidden_PGD is not None
    close(batch.hidden_PGD.flatten(0, 1), expected.hidden_ND)
    assert batch.entropy_PG is not None
    close(batch.entropy_PG.flatten(), expected.mean_entropy_N)
    assert batch.logp_sum_PG is not None
    logps = [logps_T.sum() for logps_T in expected.logps if logps_T is not None]
    close(batch.logp_sum_PG.flatten(), torch.stack(logps), 1e-5)
    assert batch.token_entropies is not None
    for found_T, expected_T in zip(batch.token_entropies, expected.entropies, strict=True):
        close(found_T, expected_T)

    # and what TRL knows
    right = [number in RIGHT for number in range(COUNT)]
    assert batch.correct_PG.flatten().tolist() == right
    assert batch.rewards_PG.flatten().tolist() == [1.0 if is_right else -1.0 for is_right in right]
    lengths = [len(ids) for ids in small_trl.responses(tiny.tokenizer)]
    assert batch.lengths_PG.flatten().tolist() == lengths
    assert batch.problem_ids == [problem.id for problem in small_trl.PROBLEMS_OF_TASK]
    assert batch.texts is not None
    assert batch.texts[0][1].startswith("so")


def test_steps_are_counted_from_one_so_that_a_schedule_begins_and_ends_with_the_run(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    watch = Watch()
    made = trainer(tiny, tmp_path, signal=watch, settings={"max_steps": 3})
    made.train()
    steps = [batch.step for batch in watch.batches]
    assert steps == [1, 2, 3]
    curiosity = CuriosityBonus(omega=1.0, decay_steps=2, stairs=2)
    assert [curiosity.weight(step) for step in steps] == [1.0, 0.5, 0.0]


def test_mixed_precision_scores_as_g2rl_does_in_bfloat16(tiny: LoadedModel, tmp_path: Path) -> None:
    """TRL's autocast is around the forward; g2rl's own head pass is not to run under it twice."""
    watch = Watch("features", "logps")
    made = trainer(tiny, tmp_path, signal=watch, settings={"bf16": True})
    one_batch(made)
    [batch] = watch.batches
    policy = Policy(copy.deepcopy(tiny.model), compute_dtype="bfloat16")
    expected = score(policy, sequences(made), ScoreRequest(TAU, 4096, True))
    assert expected.features_ND is not None
    assert batch.features_PGD is not None
    close(batch.features_PGD.flatten(0, 1), expected.features_ND)
    exact = g2rl_scores(tiny.model, made).features_ND
    assert exact is not None
    assert (expected.features_ND - exact).norm() > 1e-3 * exact.norm(), "no mixed precision at all"


def test_words_of_the_policy_encoder_and_partition_by_name(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    watch = Watch("embeddings", "partition", "answers")
    reward = VerifierReward(Countdown().verifier)
    made = trainer(
        tiny,
        tmp_path,
        signal=watch,
        reward_funcs=reward,
        encoder="ngram",
        partition="answer",
        answers=reward,
    )
    one_batch(made)
    [batch] = watch.batches
    assert batch.embeddings_PGE is not None
    assert batch.embeddings_PGE.shape[:2] == (2, GROUP)
    assert batch.answers is not None
    assert batch.answer_keys is not None
    verifier = Countdown().verifier
    problem = small_trl.PROBLEMS_OF_TASK[0]
    expected = verifier.grade(tiny.tokenizer.decode(made._sampled[1][1]), problem).answer
    assert batch.answers[0] == [None, expected, None, None]
    assert expected is not None
    assert batch.answer_keys[0][1] == verifier.key(expected)
    assert batch.partition_PG is not None
    assert batch.partition_PG[0].tolist() == [0, 1, 0, 0]


def test_an_adapter_counts_and_the_initial_policy_is_the_one_without(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(tiny.model)
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    watch = Watch("features", "hidden", "reference_hidden")
    made = trainer(tiny, tmp_path, model=model, peft_config=adapter, signal=watch)
    one_batch(made)
    [batch] = watch.batches
    assert batch.features_PGD is not None
    assert batch.reference_hidden_PGD is not None
    assert batch.hidden_PGD is not None

    merged = copy.deepcopy(made.accelerator.unwrap_model(made.model)).merge_and_unload()
    with_adapter, without = g2rl_scores(merged, made), g2rl_scores(tiny.model, made)
    assert with_adapter.features_ND is not None
    assert without.features_ND is not None
    close(batch.features_PGD.flatten(0, 1), with_adapter.features_ND, 1e-5)
    assert not torch.allclose(with_adapter.features_ND, without.features_ND, atol=1e-3)
    close(batch.hidden_PGD.flatten(0, 1), with_adapter.hidden_ND, 1e-5)
    close(batch.reference_hidden_PGD.flatten(0, 1), without.hidden_ND, 1e-5)


# --- what TRL makes of it


def trl_by_hand(rewards: list[float], scale: str = "group") -> list[float]:
    """TRL's advantages, with the statistics module."""
    found: list[float] = []
    for start in range(0, len(rewards), GROUP):
        group = rewards[start : start + GROUP]
        spread = statistics.stdev(group if scale == "group" else rewards)
        divisor = 1.0 if scale == "none" else spread + 1e-4
        found += [(reward - statistics.mean(group)) / divisor for reward in group]
    return found


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_shaped_rewards_become_advantages_as_trl_makes_them(
    scale: str, tiny: LoadedModel, tmp_path: Path
) -> None:
    """Two reward functions with weights, a verdict of 0 and 2: the signal's 1 is worth 3."""

    def doubled(completions: list[Any], **columns: Any) -> list[float]:
        judge = VerifierReward(Countdown().verifier)
        return [2 * reward for reward in judge(columns.pop("prompts"), completions, **columns)]

    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    made = trainer(
        tiny,
        tmp_path,
        reward_funcs=[length, doubled],
        verdict="doubled",
        wrong_right=(0.0, 2.0),
        signal=GradientGuided(negatives="equation", lam=0.7),
        settings={"reward_weights": [0.1, 3.0], "scale_rewards": scale},
    )
    output = one_batch(made)
    features_ND = g2rl_scores(tiny.model, made).features_ND
    assert features_ND is not None
    correct_PG = torch.tensor([number in RIGHT for number in range(COUNT)]).view(-1, GROUP)
    base_PG = torch.where(correct_PG, 1.0, -1.0)
    shaped = GradientGuided(negatives="equation", lam=0.7)(
        GroupBatch(base_PG, correct_PG, base_PG.long(), features_PGD=features_ND.view(2, GROUP, -1))
    )
    rewards: list[float] = []
    for number, ids in enumerate(made._sampled[1]):
        verdict = 2.0 if number in RIGHT else 0.0
        added = float((shaped.rewards_PG - base_PG).flatten()[number])
        rewards.append(0.1 * len(ids) + 3.0 * verdict + 3.0 * added)
    close(output["advantages"], torch.tensor(trl_by_hand(rewards, scale)), 1e-5)

    # what is logged of the verdict is the verdict
    logged = made._metrics["train"]
    assert logged["rewards/doubled/mean"] == [0.5]
    added_mean = float((shaped.rewards_PG - base_PG).mean()) * 3
    assert logged["rewards/exploration/mean"] == pytest.approx([added_mean], abs=1e-5)
    assert logged["explore/nu_mean"] == pytest.approx([shaped.metrics["nu_mean"]], abs=1e-5)


LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
ACCUMULATED = {
    "max_steps": 2,
    "per_device_train_batch_size": GROUP,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "max_completion_length": 8,
}
"""Two batches in two parts each, and an evaluation."""
BIT_EQUAL: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "grpo": (GRPOTrainer, ExplorationGRPOTrainer, ACCUMULATED),
    "rloo": (RLOOTrainer, ExplorationRLOOTrainer, {**ACCUMULATED, "beta": 0.05}),
    "adaptive": (
        GRPOTrainer,
        ExplorationGRPOTrainer,
        {
            "max_steps": 3,
            "max_completion_length": 3,
            "entropy_coef": 0.1,
            "use_adaptive_entropy": True,
            "entropy_target": 5.0,
        },
    ),
}
"""TRL's trainer, ours, and settings; TRL changes an adaptive entropy coefficient at every step."""


def odd(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A verdict that the policy's first token decides."""
    return [float(ids[0] % 2) for ids in completion_ids]


def long(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """A reward of some completions, and none of the others."""
    return [len(ids) / 8 if ids[0] % 3 else None for ids in completion_ids]


async def last(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that is waited for."""
    return [ids[-1] / 10 for ids in completion_ids]


def trained(
    kind: Any, tiny: LoadedModel, folder: Path, settings: dict[str, Any], **options: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Weights and logs after training on sampled responses."""
    options = {"reward_funcs": [odd], "fixed": False, **options}
    made = trainer(tiny, folder / kind.__name__, kind, settings=settings, **options)
    made.train()
    return weights(made), made.state.log_history


def assert_bit_equal(
    tiny: LoadedModel, folder: Path, case: tuple[Any, Any, dict[str, Any]], **options: Any
) -> None:
    """Observers look on, and neither a weight nor a number of TRL's logs changes."""
    theirs_kind, our_kind, settings = case
    theirs, their_logs = trained(theirs_kind, tiny, folder, settings, **options)
    observers = ["g2rl"] if our_kind is ExplorationRLOOTrainer else ["g2rl", EntropyBonus(0.5)]
    options |= {"signal": "none", "observers": observers}
    ours, our_logs = trained(our_kind, tiny, folder, settings, **options)

    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name
    for mine, other in zip(our_logs, their_logs, strict=True):
        for name in other.keys() - {"step_time"}:
            if "per_second" not in name and "runtime" not in name:
                assert mine[name] == other[name], name

    # the observers have seen the batches, and TRL has trained
    assert any("observe/g2rl/nu_mean" in row for row in our_logs)
    assert any(row.get("grad_norm", 0.0) > 0 for row in their_logs), "TRL has changed nothing"


@pytest.mark.parametrize("case", BIT_EQUAL)
def test_without_exploration_training_is_bit_equal_to_trls(
    case: str, tiny: LoadedModel, tmp_path: Path
) -> None:
    assert_bit_equal(tiny, tmp_path, BIT_EQUAL[case])


SETTINGS: dict[str, dict[str, Any]] = {
    **{f"loss-{name}": {"loss_type": name} for name in LOSSES},
    "batch-scale": {"scale_rewards": "batch"},
    "no-scale": {"scale_rewards": "none"},
    "two-iterations": {"num_iterations": 2},
    "off-policy-batches": {
        "steps_per_generation": 4,
        "per_device_train_batch_size": GROUP // 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
    },
    "kl": {"beta": 0.1, "use_bias_correction_kl": True, "num_iterations": 2},
    "moving-reference": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
    "truncated": {"mask_truncated_completions": True},
    "sequence-ratio": {"importance_sampling_level": "sequence", "num_iterations": 2},
    "quantile": {"top_entropy_quantile": 0.5},
    "bonus": {"entropy_coef": 0.1},
    "off-policy-mask": {"off_policy_mask_threshold": 0.1, "num_iterations": 2},
    "two-sided": {"delta": 1.5, "num_iterations": 2},
    "small-evaluation": {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2},
    "table": {"log_completions": True},
    "reentrant": {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "not-reentrant": {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "no-checkpointing": {"gradient_checkpointing": False},
    "bf16": {"bf16": True},
    "float32-head": {"bf16": True, "cast_lm_head_to_fp32": True},
    "sampling": {"top_p": 0.9, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1},
    "padding": {"pad_to_multiple_of": 8},
    "workers": {"dataloader_num_workers": 1},
    "dropped-columns": {"remove_unused_columns": True},
    "rewards": {"reward_weights": [1.0, 0.5, 0.2]},
    "adapter": {"beta": 0.1, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
}
"""Settings of GRPO that a user of TRL may have, one at a time."""
RLOO_SETTINGS: dict[str, dict[str, Any]] = {
    "rloo-iterations": {"num_iterations": 2, "beta": 0.0},
    "rloo-normalized": {"normalize_advantages": True},
    "rloo-clipped": {"mask_truncated_completions": True, "reward_weights": [0.5]},
    "rloo-reentrant": {"gradient_checkpointing_kwargs": {"use_reentrant": True}, "bf16": True},
    "rloo-table": {"log_completions": True, "steps_per_generation": 2, "num_iterations": 2},
}
"""Likewise of RLOO."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SETTINGS, *RLOO_SETTINGS])
def test_under_every_setting_training_is_bit_equal_to_trls(
    name: str, tiny: LoadedModel, tmp_path: Path
) -> None:
    kinds: tuple[Any, Any] = (GRPOTrainer, ExplorationGRPOTrainer)
    if name in RLOO_SETTINGS:
        kinds = (RLOOTrainer, ExplorationRLOOTrainer)
    changes = (SETTINGS | RLOO_SETTINGS)[name]
    settings = {**ACCUMULATED, "eval_strategy": "no", **changes}
    options: dict[str, Any] = {}
    if name == "rewards":
        options["reward_funcs"] = [odd, long, last]
    if name == "adapter":
        peft = pytest.importorskip("peft")
        options["peft_config"] = peft.LoraConfig(r=2, target_modules=["q_proj"])
    assert_bit_equal(tiny, tmp_path, (*kinds, settings), **options)


def test_advantages_of_a_signal_are_used_as_they_are(tiny: LoadedModel, tmp_path: Path) -> None:
    """An advantage-level signal sees plain TRL's advantages, and the loss gets what it returns."""
    plain = one_batch(trainer(tiny, tmp_path, GRPOTrainer))["advantages"]
    watch = Watch("advantages", level="advantage")
    watch.say = lambda batch: Shaped(
        batch.rewards_PG, advantages_PG=batch.advantages_PG + ramp(batch)
    )
    made = trainer(tiny, tmp_path, signal=watch)
    output = one_batch(made)
    [batch] = watch.batches
    assert batch.advantages_PG is not None
    assert torch.equal(batch.advantages_PG.flatten(), plain)
    close(output["advantages"], plain + ramp(batch).flatten())
    close(torch.tensor(list(made._logs["advantages"])), output["advantages"])
    assert made._metrics["train"]["rewards/exploration/mean"] == [0.0]


def test_a_combination_makes_advantages_as_trl_does(tiny: LoadedModel, tmp_path: Path) -> None:
    """One part shapes rewards, the other doubles the advantages that TRL makes of them."""
    doubler = Watch("advantages", level="advantage")
    doubler.name = "doubler"

    def say(batch: GroupBatch) -> Shaped:
        assert batch.advantages_PG is not None
        return Shaped(batch.rewards_PG, advantages_PG=2 * batch.advantages_PG)

    doubler.say = say
    parts = [Watch(say=shaping(ramp)), doubler]
    expected = 2 * one_batch(trainer(tiny, tmp_path, signal=parts[0]))["advantages"]
    close(one_batch(trainer(tiny, tmp_path, signal=parts))["advantages"], expected)

    # a combination that was made for another trainer stays as it was
    rule = GroupAdvantage()
    combined = Combined(parts, rule)
    close(one_batch(trainer(tiny, tmp_path, signal=combined))["advantages"], expected)
    assert combined.advantage is rule


@pytest.mark.parametrize("scale", ["std", "none"])
def test_a_signal_may_bring_its_own_scale(scale: str, tiny: LoadedModel, tmp_path: Path) -> None:
    watch = Watch(say=lambda batch: Shaped(batch.rewards_PG + ramp(batch), advantage_scale=scale))
    other = {"std": "none", "none": "group"}[scale]
    made = trainer(tiny, tmp_path, signal=watch, settings={"scale_rewards": other})
    rewards: list[float] = []
    for number in range(COUNT):
        rewards.append(float(number in RIGHT) + 0.1 * (number + 1) / 2)
    expected = trl_by_hand(rewards, {"std": "group", "none": "none"}[scale])
    close(one_batch(made)["advantages"], torch.tensor(expected), 1e-5)


@pytest.mark.parametrize("name", choices("exploration"))
def test_every_signal_works_or_is_refused_by_name(
    name: str, tiny: LoadedModel, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    reward = VerifierReward(Countdown().verifier)

    def make() -> Any:
        return trainer(
            tiny,
            tmp_path,
            signal=name,
            reward_funcs=reward,
            answers=reward,
            encoder="ngram",
            partition="answer",
            peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"]),
        )

    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            make()
    else:
        advantages = one_batch(make())["advantages"]
        assert advantages.isfinite().all()
        assert len(advantages) == COUNT


def loss_of(made: Any, output: dict[str, Any]) -> Tensor:
    made.current_gradient_accumulation_steps = made.args.steps_per_generation = 1
    return made._compute_loss(made.model, output)


def test_responses_that_are_left_out_count_nowhere(tiny: LoadedModel, tmp_path: Path) -> None:
    """The loss is that of the kept responses alone, tokens and denominator."""
    keep_PG = torch.tensor([[True, True, False, True], [False, True, True, False]])
    advantages_PG = torch.linspace(-1, 2, COUNT).view(2, GROUP)
    watch = Watch(
        say=lambda batch: Shaped(batch.rewards_PG, advantages_PG=advantages_PG, keep_PG=keep_PG)
    )
    made = trainer(tiny, tmp_path, signal=watch, settings={"beta": 0.0})
    output = one_batch(made)
    found = loss_of(made, output)

    kept = keep_PG.flatten()
    alone = {name: value[kept] for name, value in output.items() if value.dim() > 0}
    del alone["tool_mask"]
    alone["num_items_in_batch"] = alone["completion_mask"].sum()
    assert int(alone["num_items_in_batch"]) < int(output["completion_mask"].sum())
    close(found, loss_of(made, alone))
    by_hand = -(alone["advantages"] * alone["completion_mask"].sum(1)).sum()
    close(found, by_hand / alone["num_items_in_batch"], 1e-5)


def test_a_bonus_of_tokens_is_added_to_their_advantages(tiny: LoadedModel, tmp_path: Path) -> None:
    lengths = [len(ids) for ids in small_trl.responses(tiny.tokenizer)]
    bonus = [torch.arange(1.0, length + 1) for length in lengths]
    plain = trainer(tiny, tmp_path, signal="none")
    watch = Watch(say=lambda batch: Shaped(batch.rewards_PG, token_bonus=bonus))
    made = trainer(tiny, tmp_path, signal=watch)
    difference = (loss_of(made, one_batch(made)) - loss_of(plain, one_batch(plain))).detach()
    # the ratio is 1, so a token costs minus its advantage, and dapo averages over all tokens
    expected = -sum(float(bonus_T.sum()) for bonus_T in bonus) / sum(lengths)
    assert float(difference) == pytest.approx(expected, rel=1e-5)


def test_masks_and_bonuses_do_not_depend_on_accumulation(tiny: LoadedModel, tmp_path: Path) -> None:
    """Two steps on one batch, as a whole and in shuffled halves: the same weights."""
    lengths = [len(ids) for ids in small_trl.responses(tiny.tokenizer)]
    bonus = [torch.arange(1.0, length + 1) for length in lengths]
    keep_PG = torch.tensor([[True, True, False, True], [False, True, True, False]])
    once = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    once |= {"num_iterations": 2, "max_steps": 2}
    halves = {"per_device_train_batch_size": GROUP, "gradient_accumulation_steps": 2}
    found: list[dict[str, Tensor]] = []
    for settings in (once, once | halves):
        watch = Watch(say=lambda b: Shaped(b.rewards_PG, token_bonus=bonus, keep_PG=keep_PG))
        made = trainer(tiny, tmp_path, signal=watch, settings=settings)
        made.train()
        assert len(watch.batches) == 1
        found.append(weights(made))
    close(found[1], found[0])
    moved = [float((found[0][n] - w).abs().max()) for n, w in tiny.model.named_parameters()]
    assert max(moved) > 0.01, "nothing was trained"


def test_an_entropy_bonus_is_trls_own(tiny: LoadedModel, tmp_path: Path) -> None:
    made = trainer(tiny, tmp_path, signal=EntropyBonus(0.3), settings={"entropy_coef": 0.1})
    made.train()
    theirs = trainer(tiny, tmp_path, GRPOTrainer, settings={"entropy_coef": 0.4})
    theirs.train()
    without = trainer(tiny, tmp_path, GRPOTrainer, settings={"entropy_coef": 0.1})
    without.train()
    gap = 0.0
    for name, weight in weights(theirs).items():
        close(weights(made)[name], weight)
        gap = max(gap, float((weight - weights(without)[name]).abs().max()))
    assert gap > 1e-4, "the bonus would not be seen"


def test_groups_that_nobody_judged_are_not_shown(tiny: LoadedModel, tmp_path: Path) -> None:
    """A job on several data sets: the verdict is of some problems, another reward of all."""
    first_problem = small_trl.PROBLEMS_OF_TASK[0].id

    def verdict(problem_id: list[str], **_: Any) -> list[float | None]:
        return [
            None if name == first_problem else float(i % 2) for i, name in enumerate(problem_id)
        ]

    def style(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    watch = Watch("features", "advantages", say=shaping(ramp))
    made = trainer(tiny, tmp_path, reward_funcs=[verdict, style], signal=watch)
    found = one_batch(made)["advantages"]
    plain = one_batch(trainer(tiny, tmp_path, GRPOTrainer, reward_funcs=[verdict, style]))
    [batch] = watch.batches
    assert batch.rewards_PG.shape == (1, GROUP)
    assert torch.equal(found[:GROUP], plain["advantages"][:GROUP])
    assert batch.advantages_PG is not None
    assert torch.equal(batch.advantages_PG.flatten(), plain["advantages"][GROUP:])
    rewards = [
        len(ids) + i % 2 + 0.1 * (i + 1) / 2 for i, ids in enumerate(made._sampled[1][GROUP:])
    ]
    close(found[GROUP:], torch.tensor(trl_by_hand(rewards)), 1e-5)
    assert math.isfinite(made._metrics["train"]["rewards/exploration/mean"][0])


def test_the_entropy_bonus_of_one_batch_is_not_that_of_the_next(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    """A batch in which nobody judged anything has TRL's own bonus."""
    verdicts = iter([[1.0, 0.0] * GROUP, [None] * COUNT])
    made = trainer(
        tiny,
        tmp_path,
        reward_funcs=[lambda **_: next(verdicts)],
        signal=EntropyBonus(0.3),
        settings={"entropy_coef": 0.125},
    )
    one_batch(made)
    assert made.entropy_coef == 0.125 + 0.3
    one_batch(made)
    assert made.entropy_coef == 0.125


def test_the_callers_list_of_reward_functions_stays_as_it_was(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    """A second trainer can be made of the same list, with weights for what stands in it."""
    rewards = [VerifierReward(Countdown().verifier)]
    for _ in range(2):
        made = trainer(
            tiny,
            tmp_path,
            reward_funcs=rewards,
            signal="none",
            settings={"reward_weights": [1.0]},
        )
    assert len(rewards) == 1
    assert made.reward_func_names == ["verifier", "exploration"]


def test_nobody_judged_anything(tiny: LoadedModel, tmp_path: Path) -> None:
    watch = Watch(say=shaping(ramp))
    none_at_all = [lambda completions, **_: [None] * len(completions)]
    made = trainer(tiny, tmp_path, reward_funcs=none_at_all, signal=watch)
    assert one_batch(made)["advantages"].tolist() == [0.0] * COUNT
    assert watch.batches == []


def test_evaluation_sees_the_verdict_alone(tiny: LoadedModel, tmp_path: Path) -> None:
    watch = Watch("features", say=shaping(ramp))
    made = trainer(tiny, tmp_path, signal=watch)
    found = made.evaluate()
    assert watch.batches == []
    assert found["eval_reward"] == found["eval_rewards/verifier/mean"] == 0.25
    assert found["eval_rewards/exploration/mean"] == 0.0


# --- processes and checkpoints


def test_two_processes_with_one_group_on_both_equal_one(tmp_path: Path) -> None:
    file = str(Path(small_trl.__file__))
    [port] = free_ports(1)
    running = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {name: str(value) for name, value in variables.items()}
        words = [file, str(tmp_path), str(COUNT // 2)]
        running.append(commands.start(words, tmp_path, MASTER_ADDR="127.0.0.1", **environment))
    outputs = [process.communicate(timeout=280)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)

    alone = small_trl.observed_step(tmp_path / "alone", COUNT)
    assert {"features_PGD", "advantages_PG"} <= alone["batch"].keys()
    assert alone["batch"]["rewards_PG"].shape == (1, COUNT)
    for rank in range(2):
        both = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for part in ("batch", "token_entropies", "weights"):
            close(both[part], alone[part], 1e-5)


def test_a_continued_job_has_the_state_of_its_signal(tiny: LoadedModel, tmp_path: Path) -> None:
    class Counter(Watch):
        """Counts its batches."""

        count = 0

        def __call__(self, batch: GroupBatch) -> Shaped:
            self.count += 1
            return Shaped(batch.rewards_PG, metrics={"count": float(self.count)})

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    made = trainer(tiny, tmp_path, signal=Counter(), settings=settings)
    made.train()
    again = trainer(tiny, tmp_path, signal=Counter(), settings={**settings, "max_steps": 3})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    counts = [row["explore/count"] for row in again.state.log_history if "explore/count" in row]
    assert counts == [1.0, 2.0, 3.0]
    other = trainer(tiny, tmp_path, signal="none", settings=settings)
    with pytest.raises(ValueError, match="keeps no state"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))

    # a checkpoint of another trainer has no state of a signal
    (tmp_path / "checkpoint-1" / "exploration.pt").unlink()
    with pytest.raises(FileNotFoundError, match="not written by a trainer with a signal"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


# --- what is refused


@dataclass(slots=True)
class MoreShaped(Shaped):
    """What a later version of g2rl might return."""

    temperature_of_tokens: Tensor | None = None


class Planner(Watch):
    """Plans single tokens of the loss."""

    def tokens(self, view: Any) -> Any:
        raise AssertionError("never asked")


def keeping(batch: GroupBatch) -> Shaped:
    return Shaped(batch.rewards_PG, keep_P=torch.tensor([True, False]))


def with_bonus(batch: GroupBatch) -> Shaped:
    lengths = batch.lengths_PG.flatten().tolist()
    return Shaped(batch.rewards_PG, token_bonus=[torch.zeros(length) for length in lengths])


def with_a_new_part(batch: GroupBatch) -> Shaped:
    return MoreShaped(batch.rewards_PG, temperature_of_tokens=torch.ones(3))


AT_THE_START: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("no exploration=g2rll", {"signal": "g2rll"}, {}),
    ("no encoder=x", {"signal": "none", "encoder": "x"}, {}),
    ("encoder=ngram", {"signal": "evol"}, {}),
    ("need answers=", {"signal": Watch("answers")}, {}),
    ("partition=answer", {"signal": Watch("partition")}, {}),
    ("beta above 0", {"signal": Watch("reference_hidden")}, {}),
    ("plans single tokens", {"signal": Planner()}, {}),
    ("is no reward function", {"signal": "none", "verdict": "accuracy"}, {}),
    ("is no reward function", {"signal": "none", "verdict": 3}, {}),
    ("is no reward function", {"signal": "none", "verdict": -1}, {}),
    ("worth more", {"signal": "none", "wrong_right": (1.0, 0.0)}, {}),
    ("worth more", {"signal": "none"}, {"reward_weights": [0.0]}),
    (
        "normalize_then_sum",
        {"signal": "none"},
        {"multi_objective_aggregation": "normalize_then_sum"},
    ),
]
IN_A_BATCH: list[tuple[str, Any, dict[str, Any]]] = [
    ("loss_type='grpo'", keeping, {"loss_type": "grpo"}),
    ("loss_type='bnpo'", keeping, {"loss_type": "bnpo"}),
    ("bonus to single tokens", with_bonus, {"loss_type": "vespo"}),
    ("bonus to single tokens", with_bonus, {"off_policy_mask_threshold": 0.5}),
    (
        "temperature_of_tokens",
        lambda batch: MoreShaped(batch.rewards_PG, temperature_of_tokens=1),
        {},
    ),
    ("not finite", lambda batch: Shaped(batch.rewards_PG * torch.nan), {}),
    ("of shape", lambda batch: Shaped(batch.rewards_PG[:1]), {}),
    (
        "use_adaptive_entropy",
        lambda batch: Shaped(batch.rewards_PG, 0.1),
        {"use_adaptive_entropy": True, "entropy_target": 0.5},
    ),
]


@pytest.mark.parametrize(("message", "options", "settings"), AT_THE_START)
def test_refused_before_training(
    message: str,
    options: dict[str, Any],
    settings: dict[str, Any],
    tiny: LoadedModel,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tiny, tmp_path, settings=settings, **options)


@pytest.mark.parametrize(("message", "say", "settings"), IN_A_BATCH)
def test_refused_in_a_batch(
    message: str, say: Any, settings: dict[str, Any], tiny: LoadedModel, tmp_path: Path
) -> None:
    made = trainer(tiny, tmp_path, signal=Watch(say=say), settings=settings)
    with pytest.raises(Exception, match=message):
        one_batch(made)


@pytest.mark.parametrize(
    ("message", "verdicts"),
    [
        ("gave 0.5", [0.5] * COUNT),
        ("some responses of a group", [None, 1.0] * GROUP),
    ],
)
def test_rewards_that_are_no_verdicts_are_refused(
    message: str, verdicts: list[float | None], tiny: LoadedModel, tmp_path: Path
) -> None:
    made = trainer(tiny, tmp_path, signal="none", reward_funcs=[lambda **_: verdicts])
    with pytest.raises(ValueError, match=message):
        one_batch(made)


def test_an_estimator_beside_other_rewards_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    def style(completions: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    rewards = [VerifierReward(Countdown().verifier), style]
    signal = Watch(level="estimator")
    with pytest.raises(ValueError, match="style"):
        trainer(tiny, tmp_path, reward_funcs=rewards, signal=signal)
    trainer(
        tiny, tmp_path, reward_funcs=rewards, signal=signal, settings={"reward_weights": [1.0, 0.0]}
    )


def test_a_model_whose_logits_are_not_its_heads_is_refused(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    model = copy.deepcopy(tiny.model)
    before = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = before(*args, **kwargs)
        output.logits = output.logits**3
        return output

    model.forward = scaled
    with pytest.raises(ValueError, match="logits"):
        trainer(tiny, tmp_path, model=model, signal="g2rl")
    trainer(tiny, tmp_path, model=model, signal="none")


@pytest.fixture
def any_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny policy's chat template has no place for tools, which TRL would refuse first."""
    module = "trl.trainer.grpo_trainer."
    monkeypatch.setattr(module + "supports_tool_calling", lambda _: True)
    monkeypatch.setattr(module + "is_chat_template_prefix_preserving", lambda _: True)
    monkeypatch.setattr(module + "add_response_schema", lambda tokenizer: tokenizer)
    monkeypatch.setattr(module + "is_jmespath_available", lambda: True)


@pytest.mark.usefixtures("any_template")
def test_tools_are_refused_before_training(tiny: LoadedModel, tmp_path: Path) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first.
            b: the second.
        """
        return a + b

    with pytest.raises(ValueError, match=r"signal passk inside TRL: .* tools have several turns"):
        trainer(tiny, tmp_path, signal="passk", tools=[add])


@pytest.mark.usefixtures("any_template")
def test_an_environment_without_tools_asks_and_judges(tiny: LoadedModel, tmp_path: Path) -> None:
    """It is one turn. There is no data set, so the problem is what the environment asks."""
    question = small_trl.PROBLEMS_OF_TASK[0].prompt

    class Environment:
        def reset(self, **_: Any) -> str:
            return question

        def get_reward(self) -> float:
            return 1.0

    watch = Watch("problem_ids", "logps")
    made = ExplorationGRPOTrainer(
        model=copy.deepcopy(tiny.model),
        args=small_trl.config(tmp_path, max_completion_length=2),
        processing_class=tiny.tokenizer,
        environment_factory=Environment,
        signal=watch,
    )
    made.train()
    [batch] = watch.batches
    assert batch.problem_ids == [question, question]
    assert batch.correct_PG.all()
    assert batch.logp_sum_PG is not None


def test_models_with_images_are_refused_where_scores_are_needed(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    """TRL knows such a model by its processor; a signal of verdicts needs no score of it."""

    class Seeing(ExplorationGRPOTrainer):
        _is_vlm = property(lambda self: True, lambda self, value: None)

    with pytest.raises(ValueError, match=r"signal g2rl inside TRL needs scores .* images"):
        trainer(tiny, tmp_path, Seeing, signal="g2rl")
    trainer(tiny, tmp_path, Seeing, signal="passk")


def test_a_verifier_names_the_columns_that_are_missing() -> None:
    [row] = rows_of(small_trl.PROBLEMS_OF_TASK[:1])
    judge = VerifierReward(Countdown().verifier)
    with pytest.raises(KeyError, match=r"there is no \['problem_id', 'meta'\].*rows_of"):
        judge([row["prompt"]], ["x"], answer=[row["answer"]])


def test_completions_of_several_turns_are_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    made = trainer(tiny, tmp_path, signal=NoExploration())
    prompt_ids = [[1, 3, 5]] * COUNT
    ids = small_trl.responses(tiny.tokenizer)
    masks = [[1] * len(row) for row in ids]

    def rollout(prompts: list[Any], _: Any) -> dict[str, Any]:
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": ids,
            "logprobs": None,
            "env_mask": masks,
        }

    made.rollout_func = rollout
    made.model.train()
    with pytest.raises(ValueError, match="several turns"):
        made._generate_and_score_completions(rows_of_a_step())
