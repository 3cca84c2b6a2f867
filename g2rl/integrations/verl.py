"""verl with signals of g2rl, without a fork: verl imports this module and finds what it registers.

    export VERL_USE_EXTERNAL_MODULES=g2rl.integrations.verl G2RL_SIGNAL=...

There are two ways, for verl 0.9:

- `algorithm.adv_estimator=g2rl` takes the advantages of a signal that looks at verdicts and lengths
  only. It works with every engine.
- `VERL_ENGINE_VENDOR=g2rl trainer.v1.trainer_mode=g2rl algorithm.adv_estimator=grpo` also offers
  gradient features, entropies and log-probabilities. The engine is that of FSDP2, whose forward of
  `compute_log_prob` returns Phi, one row a response; the trainer then replaces the advantages.

Rewards stay as verl's reward function gave them, so verl's logs of them are those of the verdicts,
and validation does not see the signal. Settings are read from the environment:

    G2RL_SIGNAL        name of a file in conf/exploration
    G2RL_OBSERVERS     names that only measure, with commas
    G2RL_WRONG_RIGHT   the two outcome rewards, "0,1" unless it is set
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from g2rl.cli.build.named import build_named
from g2rl.integrations.groups import OutcomeSignal
from g2rl.integrations.hosted import whole_head
from g2rl.policy.lm_head import FeatureRequest, head_pass
from g2rl.policy.lora import merged_weight

FEATURES = "g2rl_features"
"""Name of Phi among the outputs of the model, (responses, D)."""
OFFERED = frozenset({"features", "entropy", "logps"})
"""What the trainer offers besides verdicts, lengths and advantages."""


def signal_of_environment(offered: frozenset[str], divide: bool) -> OutcomeSignal:
    """The signal that the environment names.

    Raises:
        ValueError: G2RL_SIGNAL is not set, names no signal, or one that needs what is not offered;
            or G2RL_WRONG_RIGHT is not two numbers.
    """
    name = os.environ.get("G2RL_SIGNAL", "")
    if not name:
        raise ValueError("set G2RL_SIGNAL to the name of a signal of g2rl, e.g. G2RL_SIGNAL=g2rl")
    values = [float(value) for value in os.environ.get("G2RL_WRONG_RIGHT", "0,1").split(",")]
    if len(values) != 2:
        raise ValueError(f"G2RL_WRONG_RIGHT must be two numbers such as 0,1, got {values}")

    # signals that only measure
    observers = [other for other in os.environ.get("G2RL_OBSERVERS", "").split(",") if other]
    return OutcomeSignal(
        signal=build_named("exploration", name),
        observers=[build_named("exploration", other) for other in observers],
        offered=offered,
        wrong_right=(values[0], values[1]),
        divide=divide,
    )


# --- advantages without a model


_signals: dict[bool, OutcomeSignal] = {}
"""The signal of this process, which may have state; by whether advantages are divided."""


@register_adv_est("g2rl")
def exploration_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any,
    config: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """verl's advantage estimator "g2rl": advantages of a signal that needs no model.

    Args:
        token_level_rewards: (N, T), whose sum is the verdict.
        response_mask: (N, T), 1 for response tokens.
        index: group id of each response.
        config: verl's `algorithm`.

    Returns:
        Advantages (N, T), the same for every token of a response, and returns, which are equal.
    """
    # verl's own default is to divide
    divide = True
    if config is not None:
        divide = bool(config.get("norm_adv_by_std_in_grpo", True))
    if divide not in _signals:
        _signals[divide] = signal_of_environment(frozenset(), divide)

    # one verdict a response, and one advantage for all of its tokens
    rewards_N, lengths_N = token_level_rewards.sum(-1), response_mask.sum(-1).long()
    advantages_N, _metrics = _signals[divide](rewards_N, lengths_N, list(index))
    advantages_NT = advantages_N.to(token_level_rewards).unsqueeze(1) * response_mask
    return advantages_NT, advantages_NT


# --- features inside the engine's forward


def response_positions(offsets: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Where the hidden states lie that predict response tokens, in rows packed one after another.

    Args:
        offsets: where each row begins, and where the last one ends, B + 1 numbers.
        lengths: response tokens of each row, which end the row.

    Returns:
        (T,), int64; the token itself lies one further.

    Raises:
        ValueError: a row is all response, so its first token has no prediction.
    """
    # the state before a token predicts it, so positions begin one before the response
    parts: list[Tensor] = []
    for first, end, length in zip(offsets[:-1], offsets[1:], lengths, strict=True):
        if length >= end - first:
            raise ValueError("a row has no prompt; its first token would have no prediction")
        parts.append(torch.arange(end - length - 1, end - 1))
    return torch.cat(parts)


class FeatureForward:
    """Adds Phi to what an FSDP engine of verl returns from a forward without loss."""

    module: Any

    def forward_step(self, micro_batch: TensorDict, loss_function: Any, forward_only: bool) -> Any:
        """One forward, see verl's `FSDPEngine.forward_step`.

        Raises:
            ValueError: padding is not removed, rows are divided among processes, or temperatures
                differ from row to row.
        """
        # a forward with a loss is that of the update
        parent: Any = super()
        if not forward_only or loss_function is not None:
            return parent.forward_step(micro_batch, loss_function, forward_only)
        self._refuse(micro_batch)

        # the last hidden states, as the engine's own forward makes them
        model = self.module
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        kept: list[Tensor] = []
        handle = model.base_model.register_forward_hook(
            lambda _module, _inputs, output: kept.append(output.last_hidden_state)
        )
        try:
            loss, output = parent.forward_step(micro_batch, loss_function, forward_only)
        finally:
            handle.remove()
        [states] = kept
        features_ND = self._features(model, states.flatten(0, 1), micro_batch)
        output["model_output"][FEATURES] = features_ND
        return loss, output

    def _refuse(self, micro_batch: TensorDict) -> None:
        """Refuse layouts of rows that are not read here; see `forward_step`."""
        # only rows that are packed whole, one after another, are read
        packed = tensordict_utils.get_non_tensor_data(micro_batch, "use_remove_padding", True)
        if not packed or getattr(self, "ulysses_sequence_parallel_size", 1) > 1:
            raise ValueError(
                "features need use_remove_padding=True and ulysses_sequence_parallel_size=1"
            )
        if getattr(self, "pad_to_length", None):
            raise ValueError("features need pad_to_length off")

    @torch.no_grad()
    def _features(self, model: Any, states_LD: Tensor, micro_batch: TensorDict) -> Tensor:
        """Phi of each row, (B, D), from the hidden states of all packed tokens."""
        # where the tokens of the responses are predicted, and which row each belongs to
        ids = micro_batch["input_ids"]
        lengths = [int(row.numel()) for row in micro_batch["responses"].unbind()]
        positions_T = response_positions(ids.offsets().tolist(), lengths).to(states_LD.device)
        rows_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))

        # one temperature for all of them
        temperature = micro_batch["temperature"]
        if isinstance(temperature, Tensor):
            if (temperature != temperature.flatten()[0]).any():
                raise ValueError("features need one temperature for all rows")
            temperature = float(temperature.flatten()[0])
        request = FeatureRequest(rows_T.to(states_LD.device), len(lengths), float(temperature))

        # outside of the engine's mixed precision, whose softmax would be in bfloat16
        head = model.get_output_embeddings()
        with whole_head(head), torch.autocast(states_LD.device.type, enabled=False):
            output = head_pass(
                states_LD[positions_T],
                merged_weight(head).to(states_LD.dtype),
                ids.values().to(states_LD.device)[positions_T + 1],
                temperature=request.temperature,
                bias_V=head.bias,
                features=request,
            )
        assert output.features_ND is not None
        return output.features_ND


@EngineRegistry.register(
    model_type="language_model", backend="fsdp2", device=["cuda", "npu"], vendor="g2rl"
)
class FeatureEngine(FeatureForward, FSDPEngineWithLMHead):
    """verl's engine of FSDP2 whose `compute_log_prob` also returns Phi."""


# --- the trainer


@register_trainer("g2rl")
class ExplorationTrainer(PPOTrainerSync):
    """verl's synchronous trainer whose advantages a signal of g2rl makes.

    Args:
        config: verl's configuration. `algorithm.adv_estimator` has to be grpo.

    Raises:
        ValueError: another estimator, or a signal that does not go together with this.
    """

    def __init__(self, config: Any) -> None:
        # the group of a response and its length are those of GRPO
        if str(config.algorithm.adv_estimator) != "grpo":
            raise ValueError(
                "trainer_mode=g2rl makes advantages out of those of GRPO: set "
                f"algorithm.adv_estimator=grpo, not {config.algorithm.adv_estimator}"
            )
        divide = bool(config.algorithm.get("norm_adv_by_std_in_grpo", True))
        self.exploration = signal_of_environment(OFFERED, divide)

        # verl asks in several places whether its mode is "sync"
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _compute_advantage(self, batch: Any, metrics: dict[str, float]) -> Any:
        """verl's advantages, then those of the signal in their place."""
        super()._compute_advantage(batch, metrics)

        # keys are PROMPT_SESSION_OUTPUT; a session of several turns may have several outputs
        if any(not key.endswith("_0") for key in batch.keys):
            raise ValueError(
                f"signal {self.exploration.signal.name} inside verl: sessions have several "
                "outputs, a signal compares single responses"
            )
        wanted = ["uid", "rm_scores", "response_mask", "entropy", "old_log_probs"]
        if "features" in self.exploration.needs:
            wanted.append(FEATURES)
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted
        )
        found = replaced_advantages(data, self.exploration, self.global_steps, metrics)
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=found)


def replaced_advantages(
    data: Any, exploration: OutcomeSignal, step: int, metrics: dict[str, float]
) -> TensorDict:
    """The advantages of a signal for a batch of verl.

    Args:
        data: of N responses the field uid; the fields rm_scores, response_mask, entropy and
            old_log_probs, jagged (N, T_n); and Phi, (N, D), if the signal needs it.
        exploration: the signal.
        step: of the training, counted from 1.
        metrics: the signal's are added.

    Returns:
        The fields advantages and returns, jagged (N, T_n).

    Raises:
        ValueError: Phi is not there, because another engine has made the forward.
    """
    # the engine is chosen by the environment of the workers, which may lack the variable
    if "features" in exploration.needs and FEATURES not in data.keys():  # noqa: SIM118
        raise ValueError(
            f"signal {exploration.signal.name} needs features, which the engine has not made: "
            "export VERL_ENGINE_VENDOR=g2rl for all workers and use strategy=fsdp2"
        )

    # one value a response
    masks = [row.float() for row in data["response_mask"].unbind()]
    rewards_N = torch.stack([row.float().sum() for row in data["rm_scores"].unbind()])
    lengths_N = torch.stack([mask.sum().long() for mask in masks])
    columns: dict[str, Tensor] = {}
    if "features" in exploration.needs:
        columns["features_PGD"] = torch.stack(list(data[FEATURES].unbind())).float()
    if "entropy" in exploration.needs:
        columns["entropy_PG"] = masked_sums(data["entropy"], masks) / lengths_N.clamp(min=1)
    if "logps" in exploration.needs:
        columns["logp_sum_PG"] = masked_sums(data["old_log_probs"], masks)

    # and back to one value a token
    group_ids = np.array(data["uid"].tolist(), dtype=object)
    advantages_N, found = exploration(rewards_N, lengths_N, list(group_ids), columns, step)
    metrics.update(found)
    rows = [advantage * mask for advantage, mask in zip(advantages_N, masks, strict=True)]
    jagged = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return TensorDict({"advantages": jagged, "returns": jagged.clone()}, batch_size=len(rows))


def masked_sums(values: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Sum over the response tokens of each row of a jagged tensor, (N,)."""
    sums = [(row.float() * mask).sum() for row, mask in zip(values.unbind(), masks, strict=True)]
    return torch.stack(sums)
