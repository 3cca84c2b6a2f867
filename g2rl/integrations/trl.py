"""TRL's GRPOTrainer with any exploration signal of g2rl: `ExplorationGRPOTrainer`.

Three methods of TRL's trainer are extended, each before or after its own work, so that nothing of
TRL is copied:

- `_generate` returns the token ids, which are remembered: what is scored is what was sampled.
- `_calculate_rewards` returns the rewards of all processes, (N, F). One more column, "exploration",
  takes what a signal adds to the verdict, so that the column of the verdict and all logs of it stay
  what they are.
- `_generate_and_score_completions` returns what the loss reads. Advantages, masks and token bonuses
  that a signal gives are put there.

Every process gathers all N responses and computes the same signal of whole groups, so a group may
lie on several processes. What TRL's loss cannot express is refused by name.

`ExploringTrainer` is what all trainers of TRL that sample share; `g2rl.integrations.trl_rloo` has
that of RLOO.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from g2rl.cli.build.named import build_named
from g2rl.cli.build.signals import check_group_size
from g2rl.engines.rollouts import Rollouts
from g2rl.exploration.combined import Combined
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.partitions import Partitioner
from g2rl.exploration.signal import ESTIMATOR, Signal, level_of
from g2rl.formulas.advantages import GroupAdvantage, advantage_metrics
from g2rl.hub import missing_package
from g2rl.integrations.groups import parts_set
from g2rl.integrations.hosted import HostedPolicy
from g2rl.integrations.rewards import AnswerReader, Messages, text_of
from g2rl.policy.scoring import ScoreRequest, Scores, score
from g2rl.training.stages import NEED_EVERY_RESPONSE, Explorer
from g2rl.types import Completion, GroupBatch, Problem, Shaped, Verdict
from g2rl.world import World

# what g2rl does not install; other versions of it lack other names, which is no missing package
try:
    from accelerate.utils import gather_object
    from transformers import Trainer  # behind accelerate, without which it fails in other words
    from trl import GRPOTrainer
    from trl.trainer.utils import maybe_gather_lm_head_ctx, nanstd, use_adapter
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in ("trl", "accelerate"):
        raise
    raise ImportError(missing_package(__name__, package, "trl")) from error

COLUMN = "exploration"
"""Name of the added column of rewards, in TRL's logs too."""
STATE_FILE = "exploration.pt"
"""Where a checkpoint of TRL keeps the state of signal and observers."""
COUNTED_BY_TOKENS = ("dapo", "cispo", "vespo")
"""Loss types of TRL that divide by the tokens of the whole batch, so that responses can be left out
as if they had not been sampled. The others count responses or micro-batches."""
SEVERAL_TURNS = (
    "completions with tools have several turns, and what a tool has written is no response of the "
    "policy; this is not supported"
)
TRL_PARTS = frozenset(
    {
        "rewards_PG",
        "entropy_coef",
        "token_bonus",
        "diagnostics",
        "metrics",
        "advantage_scale",
        "advantages_PG",
        "keep_P",
        "keep_PG",
    }
)
"""Fields of `Shaped` that are carried out in GRPO."""


# --- from rewards to advantages, as TRL does it


def trl_advantages(rewards_N: Tensor, group_size: int, scale: str) -> Tensor:
    """What TRL makes of rewards: A_i = (r_i - mean_j r_j) / (s + 1e-4).

    s is the standard deviation with Bessel's correction, of the group (`scale` "group") or of the
    batch ("batch"); "none" does not divide. g2rl's own `GroupAdvantage` divides by
    sqrt(var + eps) without the correction.

    Args:
        rewards_N: prompt-major; NaN for a response that nobody judged.
        group_size: G.
        scale: `GRPOConfig.scale_rewards`.

    Returns:
        (N,), 0 where the reward is NaN. A group of equal rewards has advantage 0.
    """
    # a response that nobody judged takes part in no mean and no spread
    rewards_PG = rewards_N.view(-1, group_size)
    centred_PG = rewards_PG - torch.nanmean(rewards_PG, dim=1, keepdim=True)

    # the spread of what is compared
    if scale == "group":
        centred_PG = centred_PG / (nanstd(rewards_PG, dim=1, keepdim=True) + 1e-4)
    elif scale == "batch":
        centred_PG = centred_PG / (nanstd(rewards_N) + 1e-4)
    return centred_PG.flatten().nan_to_num(0.0)


@dataclass(slots=True, kw_only=True)
class SummedRewards:
    """What a trainer of TRL makes of shaped rewards, in the place of
    `g2rl.formulas.advantages.GroupAdvantage`.

    A signal shapes the verdict of -1 or 1; TRL's advantage is that of the sum of all reward
    functions, in their own unit. A subclass says which rule the trainer has.
    """

    group_size: int
    unit: float
    """What 1 of the signal's rewards is worth in TRL's sum of rewards."""
    totals_N: Tensor | None = None
    """The weighted sum of all reward functions for the batch at hand, NaN where nobody judged."""
    judged_P: Tensor | None = None
    """Boolean (P of the whole batch,): the groups that the signal sees."""

    def __call__(
        self, rewards_PG: Tensor, base_rewards_PG: Tensor, scale: str | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Advantages of the shaped rewards, and metrics.

        Args:
            rewards_PG: shaped rewards of the groups that the signal sees.
            base_rewards_PG: their verdicts, -1 and 1.
            scale: "std" or "none" where a signal decides it; None takes TRL's setting.

        Raises:
            ValueError: a scale that the trainer's rule does not have.
        """
        assert self.totals_N is not None
        assert self.judged_P is not None

        # what the signal adds, in TRL's unit, to the rewards of the groups that it sees
        totals_PG = self.totals_N.view(-1, self.group_size).clone()
        added_PG = self.unit * (rewards_PG - base_rewards_PG)
        totals_PG[self.judged_P] += added_PG.to(totals_PG)

        # the trainer's rule, for all groups
        advantages_N = self.of_totals(totals_PG.flatten(), scale)
        advantages_PG = advantages_N.view_as(totals_PG)[self.judged_P].to(rewards_PG)
        return advantages_PG, advantage_metrics(advantages_PG, base_rewards_PG)

    def of_totals(self, totals_N: Tensor, scale: str | None) -> Tensor:
        """Advantages (N,) of sums of rewards (N,), prompt-major; `scale` as above."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class TrlAdvantage(SummedRewards):
    """The rule of TRL's GRPO."""

    scale: str
    """`GRPOConfig.scale_rewards`: "group", "batch" or "none"."""

    def of_totals(self, totals_N: Tensor, scale: str | None) -> Tensor:
        """See `SummedRewards`."""
        # TRL's setting, unless the signal brings its own
        rule = self.scale
        if scale is not None:
            rule = {"std": "group", "none": "none"}[scale]
        return trl_advantages(totals_N, self.group_size, rule)


@dataclass(slots=True)
class Outcome:
    """What a signal wants of the loss, for all N responses; None where TRL's own stays."""

    advantages_N: Tensor | None = None
    """Advantages that replace TRL's; NaN for responses that the signal has not seen."""
    keep_N: Tensor | None = None
    """Boolean: responses that take part in the update."""
    token_bonus: list[Tensor] | None = None
    """N tensors (T_n,), added to the advantage of each token."""


# --- the trainer


class ExploringTrainer(Trainer):
    """What every online trainer of TRL needs to have a signal; it stands before TRL's own class.

    Args:
        args, kwargs: what TRL's trainer takes.
        signal, observers, ...: see `ExplorationGRPOTrainer`.
    """

    # attributes of TRL's trainers that are changed here
    reward_funcs: list[Any]
    reward_func_names: list[str]
    reward_processing_classes: list[Any]
    reward_weights: Tensor

    # what each trainer says itself: what it makes of rewards, and which settings leave no place for
    # what a signal adds
    _make_rule: Callable[[], SummedRewards]
    _refuse_own: Callable[[str], None]

    parts = frozenset({"rewards_PG", "advantages_PG", "diagnostics", "metrics"})
    """Fields of `Shaped` that are carried out. Another one that is set is refused."""

    def __init__(
        self,
        *args: Any,
        signal: Signal | str | Sequence[Signal | str],
        observers: Sequence[Signal | str] = (),
        verdict: int | str = 0,
        wrong_right: tuple[float, float] = (0.0, 1.0),
        encoder: Encoder | str | None = None,
        partition: Partitioner | str | None = None,
        answers: AnswerReader | None = None,
        feature_temperature: float | None = None,
        score_tokens: int = 16_384,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)

        # how verdicts, answers and scores are read
        self._answers, self._wrong_right = answers, wrong_right
        self._verdict = self._number_of(verdict)
        self._score_request = ScoreRequest(
            self.temperature, score_tokens, feature_temperature=feature_temperature
        )

        # the signal sees whole groups on every process
        self._world = World(self.accelerator.process_index, self.accelerator.num_processes)
        self._rule = self._make_rule()
        self._explorer = Explorer(
            _signal(signal, self._rule),
            [_signal(observer, self._rule) for observer in observers],
            None if encoder is None else _named("encoder", encoder),
            self._world,
            advantage=cast(GroupAdvantage, self._rule),  # it is called like one
            partitioner=None if partition is None else _named("partition", partition),
            answer_key=None if answers is None else answers.key,
        )
        self._needs = self._explorer.needs | self._explorer.observer_needs
        self._refuse_settings()

        # what it adds is one more reward function of weight 1; the lists may be the caller's own
        self.reward_funcs = [*self.reward_funcs, no_reward]
        self.reward_func_names = [*self.reward_func_names, COLUMN]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])

        # what passes from one extended method to the next
        self._sampled: tuple[Any, Any] | None = None
        self._outcome: Outcome | None = None
        self._host_policies()

    # --- at the start

    def _number_of(self, verdict: int | str) -> int:
        """The column of the reward function that judges."""
        # the added column is not there yet
        names = list(self.reward_func_names)
        if isinstance(verdict, str) and verdict in names:
            return names.index(verdict)
        if isinstance(verdict, str) or not 0 <= verdict < len(names):
            raise ValueError(f"verdict={verdict!r} is no reward function; there is {names}")
        return verdict

    def _unit(self) -> float:
        """What 1 of a signal's rewards, which are -1 and 1, is worth in TRL's sum of rewards."""
        wrong, right = self._wrong_right
        weight = float(self.reward_weights[self._verdict])
        if not wrong < right or not weight > 0:
            raise ValueError(
                "a signal needs a verdict that is worth more for right answers: "
                f"wrong_right={self._wrong_right}, its reward weight is {weight}"
            )

        # from wrong to right a signal's own reward rises by 2
        return weight * (right - wrong) / 2

    def _refuse_settings(self) -> None:
        """Refuse what cannot be carried out, as far as it is known before the first batch."""
        # groups of one, and settings that leave no place for what a signal adds
        signal, needs = self._explorer.signal, self._needs
        who = f"signal {signal.name} inside TRL"
        check_group_size([signal, *self._explorer.observers], self.num_generations)
        self._refuse_own(who)
        if callable(getattr(signal, "tokens", None)):
            raise ValueError(
                f"{who}: it plans single tokens of the loss (`tokens`), which TRL's loss has no "
                "place for; use g2rl-train"
            )

        # an estimator makes advantages of the verdict alone
        levels = {level_of(part) for part in getattr(signal, "parts", [signal])}
        if ESTIMATOR in levels and self._other_rewards():
            raise ValueError(
                f"{who} gives advantages of the verdict alone, but there are the reward functions "
                f"{self._other_rewards()} besides: give them the weight 0, or use another signal"
            )

        # what the policy and the rows do not offer
        if "answers" in needs and self._answers is None:
            raise ValueError(f"{who}, its observers or partition need answers=, a reader of them")
        if needs & NEED_EVERY_RESPONSE | needs & {"reference_hidden"}:
            self._refuse_policies(who)

    def _other_rewards(self) -> list[str]:
        """Names of the reward functions beside the verdict that have a weight."""
        # a reward function of weight 0 is only logged
        names: list[str] = []
        for number, name in enumerate(self.reward_func_names):
            if number != self._verdict and float(self.reward_weights[number]) != 0:
                names.append(name)
        return names

    def _refuse_policies(self, who: str) -> None:
        """Refuse policies that cannot be scored for a signal that needs it."""
        # g2rl scores token ids alone
        if getattr(self, "_is_vlm", False):
            raise ValueError(f"{who} needs scores of the policy, and models with images have none")

        # a reference policy is there for the KL term, or under an adapter
        if "reference_hidden" in self._needs:
            is_there = self.ref_model is not None or self._has_adapter()
            if not is_there or self.args.sync_ref_model:
                raise ValueError(
                    f"{who} or its observers need the frozen initial policy: set beta above 0 or "
                    "train an adapter, and leave sync_ref_model off"
                )

        # adapters that put tokens before the prompt move every position
        model = self.accelerator.unwrap_model(self.model)
        for adapter in getattr(model, "peft_config", {}).values():
            if adapter.is_prompt_learning:
                raise ValueError(f"{who} needs scores, which {adapter.peft_type} does not allow")

    def _has_adapter(self) -> bool:
        """Whether an adapter of PEFT is trained."""
        return hasattr(self.accelerator.unwrap_model(self.model), "peft_config")

    def _host_policies(self) -> None:
        """Make policy and reference scorable, if a signal needs it."""
        # a forward is extended only where it is used
        self._policy: HostedPolicy | None = None
        self._reference: HostedPolicy | None = None
        needs = self._needs
        if needs & NEED_EVERY_RESPONSE | needs & {"reference_hidden"}:
            self._policy = self._hosted(self.model, lambda: self.model_wrapped)
        if "reference_hidden" in needs and self.ref_model is not None:
            self._reference = self._hosted(self.ref_model, lambda: self.ref_model)

    def _hosted(self, model: Any, call: Any) -> HostedPolicy:
        """A model of the trainer that g2rl can score with."""
        # the causal LM under the wrappers of the trainer and of PEFT
        inner = self.accelerator.unwrap_model(model)
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        hosted = HostedPolicy(
            inner,
            call,
            self.accelerator.device,
            compute_dtype="bfloat16" if self.accelerator.mixed_precision == "bf16" else None,
            gather_head=maybe_gather_lm_head_ctx,
        )

        # under DeepSpeed the weights are divided already
        if not self.is_deepspeed_enabled:
            hosted.policy.check_head()
        return hosted

    # --- in every batch

    def _generate(self, prompts: list[Any], *rest: Any) -> Any:
        """As TRL generates; the token ids are remembered."""
        # token ids come back in the same places whatever engine has sampled
        output = super()._generate(prompts, *rest)
        prompt_ids, completion_ids = output[:2]
        self._sampled = (list(prompt_ids), list(completion_ids))
        return output

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """Rewards of all processes, (N, F), with what the signal adds in the last column."""
        # evaluation sees the reward functions alone
        rewards_NF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        own_NF = rewards_NF[:, :-1]
        added_N = torch.zeros_like(own_NF[:, 0])
        if self.model.training:
            added_N = self._explore(own_NF, inputs, prompts, completions)

        # TRL knows a response that nobody has judged by NaN in all columns
        is_unjudged_N = own_NF.isnan().all(dim=1)
        rewards_NF[:, -1] = added_N.masked_fill(is_unjudged_N, torch.nan)
        return rewards_NF

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """As TRL does, with the advantages, masks and bonuses of the signal."""
        # `_calculate_rewards`, which is called in between, says what is to be done
        self._outcome = None
        output = super()._generate_and_score_completions(inputs)
        if self._outcome is not None:
            self._carry_out(self._outcome, output)
        return output

    def _explore(self, rewards_NF: Tensor, inputs: Any, prompts: Any, completions: Any) -> Tensor:
        """Let the signal and the observers look at a batch.

        Args:
            rewards_NF: rewards of all processes by TRL's own reward functions.
            inputs, prompts, completions: rows of the data set, what was asked and what was
                answered, of this process.

        Returns:
            What the signal adds to the rewards, (N,), in TRL's unit.
        """
        # the groups that have verdicts, of all processes
        verdict_N = rewards_NF[:, self._verdict]
        judged_P = self._judged(verdict_N)
        own_records = self._records(inputs, prompts, completions)
        rollouts, verdicts = self._gathered(own_records, verdict_N, judged_P)
        added_PG = torch.zeros_like(verdict_N).view(-1, self.num_generations)
        self._outcome = Outcome()
        if not rollouts.problems:
            return added_PG.flatten()

        # the sum that TRL makes advantages of, before the signal
        weights_F = self.reward_weights[:-1].to(rewards_NF.device)
        totals_N = (rewards_NF * weights_F).nansum(dim=1)
        totals_N[rewards_NF.isnan().all(dim=1)] = torch.nan
        self._rule.totals_N, self._rule.judged_P = totals_N, judged_P

        # the signal decides, and the observers measure; TRL counts the steps that are done
        facts = (self.state.global_step + 1, rollouts, verdicts, *self._scores(rollouts))
        batch = self._explorer.group_batch(*facts)
        shaped, metrics = self._explorer.shape(batch)
        metrics |= self._explorer.observe(*facts).metrics
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

        # its parts, each where TRL has a place for it
        self._take_in(shaped, batch, judged_P)
        if self._outcome.advantages_N is None:
            added = self._rule.unit * (shaped.rewards_PG - batch.rewards_PG)
            added_PG[judged_P] = added.to(added_PG)
        return added_PG.flatten()

    def _judged(self, verdict_N: Tensor) -> Tensor:
        """Which groups have verdicts, (P,).

        Raises:
            ValueError: a verdict that is neither of the two values, or a group that is judged in
                part.
        """
        # TRL writes NaN where a function has returned None
        verdict_PG = verdict_N.view(-1, self.num_generations)
        is_missing_PG = verdict_PG.isnan()
        name = self.reward_func_names[self._verdict]
        if (is_missing_PG.any(1) & ~is_missing_PG.all(1)).any():
            raise ValueError(
                f"reward function {name} judges some responses of a group and returns None for "
                "others; a signal compares whole groups"
            )

        # a graded reward is no verdict
        wrong, right = (torch.tensor(value).to(verdict_PG) for value in self._wrong_right)
        is_other_PG = (verdict_PG != wrong) & (verdict_PG != right) & ~is_missing_PG
        if is_other_PG.any():
            raise ValueError(
                f"reward function {name} gave {float(verdict_PG[is_other_PG][0])}, a signal takes "
                f"verdicts of {self._wrong_right}: name another function by verdict=, or its "
                "values by wrong_right="
            )
        return ~is_missing_PG.all(1)

    def _records(self, inputs: Any, prompts: Any, completions: Any) -> list[Record]:
        """What this process has sampled, one record a response."""
        # final answers, where somebody looks at them
        assert self._sampled is not None
        prompt_ids, completion_ids = self._sampled
        texts = [text_of(completion) for completion in completions]
        answers: list[str | None] = [None] * len(texts)
        if "answers" in self._needs and self._answers is not None:
            answers = self._answers.answers(texts, inputs)

        # a row of an environment may have no prompt of its own, so TRL's are taken
        records: list[Record] = []
        for number, text in enumerate(texts):
            ids = list(prompt_ids[number]), list(completion_ids[number])
            problem_id = problem_id_of(inputs[number], prompts[number])
            records.append(Record(*ids, text, answers[number], problem_id))
        return records

    def _gathered(
        self, own_records: list[Record], verdict_N: Tensor, judged_P: Tensor
    ) -> tuple[Rollouts, list[Verdict]]:
        """The judged groups of all processes, and their verdicts."""
        # in the order of the gathered rewards
        records: list[Record] = gather_object(own_records)

        # groups, without those that nobody has judged
        rollouts = Rollouts([], [], [])
        verdicts: list[Verdict] = []
        right = torch.tensor(self._wrong_right[1]).to(verdict_N)
        is_right = (verdict_N == right).tolist()
        size = self.num_generations
        for place, is_judged in enumerate(judged_P.tolist()):
            if not is_judged:
                continue
            group = records[place * size : (place + 1) * size]
            add_group(rollouts, group, self.max_completion_length)
            for number, record in enumerate(group, start=place * size):
                verdicts.append(Verdict(is_right[number], record.answer, "reward"))
        return rollouts, verdicts

    def _scores(self, rollouts: Rollouts) -> tuple[Scores, Tensor | None]:
        """What the policy says of the responses, and mean hidden states of the initial policy."""
        # one forward of every response, divided among the processes
        needs, sequences = self._needs, rollouts.sequences
        nothing: list[Tensor | None] = [None] * len(sequences)
        scores = Scores(nothing, list(nothing))
        if self._policy is not None and needs & NEED_EVERY_RESPONSE:
            request = replace(
                self._score_request, features="features" in needs, hidden="hidden" in needs
            )
            scores = score(self._policy, sequences, request, self._world)

        # the frozen initial policy: a model of its own, or this one without its adapter
        reference_hidden_ND = None
        if "reference_hidden" in needs:
            request = replace(self._score_request, hidden=True)
            if self._reference is not None:
                reference = score(self._reference, sequences, request, self._world)
            else:
                assert self._policy is not None
                model = self.accelerator.unwrap_model(self.model)
                initial = "ref" if "ref" in model.peft_config else None
                with use_adapter(model, adapter_name=initial):
                    reference = score(self._policy, sequences, request, self._world)
            reference_hidden_ND = reference.hidden_ND
        return scores, reference_hidden_ND

    def _take_in(self, shaped: Shaped, batch: GroupBatch, judged_P: Tensor) -> None:
        """Remember what the signal wants of the loss, and refuse what the loss cannot express."""
        assert self._outcome is not None
        self._refuse_parts(shaped)

        # advantages that replace TRL's
        advantages_PG = shaped.advantages_PG
        scale = getattr(shaped, "advantage_scale", None)
        if advantages_PG is None and scale is not None:
            advantages_PG, _ = self._rule(shaped.rewards_PG, batch.rewards_PG, scale)
        group_size = self.num_generations
        if advantages_PG is not None:
            all_PG = torch.full((len(judged_P), group_size), torch.nan)
            all_PG[judged_P.cpu()] = advantages_PG.float().cpu()
            self._outcome.advantages_N = all_PG.flatten()

        # responses that are left out; those that the signal has not seen stay
        if shaped.kept_PG is not None:
            kept_PG = torch.ones(len(judged_P), group_size, dtype=torch.bool)
            kept_PG[judged_P.cpu()] = shaped.kept_PG.cpu()
            self._outcome.keep_N = kept_PG.flatten()
        if shaped.token_bonus is not None:
            bonuses = iter(shaped.token_bonus)
            seen = judged_P.repeat_interleave(group_size).tolist()
            nothing = torch.zeros(0)
            self._outcome.token_bonus = [next(bonuses) if is_seen else nothing for is_seen in seen]

    def _refuse_parts(self, shaped: Shaped) -> None:
        """Refuse parts of a signal that TRL's loss has no place for; see the class."""
        who = f"signal {self._explorer.signal.name} inside TRL"
        for part in parts_set(shaped) - self.parts:
            raise ValueError(f"{who}: {part} is not supported here; use g2rl-train")

    def _carry_out(self, outcome: Outcome, output: dict[str, Any]) -> None:
        """Put the signal's advantages, masks and bonuses where TRL's loss reads them."""
        # the responses of this process stand together in those of all
        own_count = len(output["completion_ids"])
        first = self.accelerator.process_index * own_count
        own = slice(first, first + own_count)

        # advantages, in the table of completions too
        if outcome.advantages_N is not None:
            advantages = output["advantages"]
            found = outcome.advantages_N[own].to(advantages)
            output["advantages"] = torch.where(found.isnan(), advantages, found)
            logged = self._logs["advantages"]
            every = outcome.advantages_N.tolist()
            before = [logged.pop() for _ in every][::-1]
            for old, new in zip(before, every, strict=True):
                logged.append(old if new != new else new)

        # the loss mask of responses that are left out, and the tokens that the loss divides by
        mask = output["completion_mask"]
        if outcome.keep_N is not None:
            keep = outcome.keep_N[own].to(mask).unsqueeze(1)
            output["tool_mask"] = torch.ones_like(mask) * keep
            left = (mask * output["tool_mask"]).sum()
            output["num_items_in_batch"] = self.accelerator.gather(left).sum()

        # one advantage a token
        if outcome.token_bonus is not None:
            bonus = torch.zeros(mask.shape, device=mask.device)
            for row, bonus_T in enumerate(outcome.token_bonus[own]):
                bonus[row, : bonus_T.numel()] = bonus_T.to(bonus)
            output["advantages"] = output["advantages"].unsqueeze(1) + bonus

    # --- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As TRL saves, with the state of signal and observers."""
        # every process has the same state, and one of them writes
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial))
            place = folder / f"checkpoint-{self.state.global_step}" / STATE_FILE
            torch.save(self._explorer.state_dict(), place)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        """As TRL loads, with the state of signal and observers.

        Raises:
            FileNotFoundError: the checkpoint is not of this trainer.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            place = Path(checkpoint) / STATE_FILE
            if not place.exists():
                raise FileNotFoundError(
                    f"{checkpoint} has no {STATE_FILE}, so it was not written by a trainer with a "
                    "signal: pass the model that it holds as model=, and start a new job"
                )

            # tensors and plain data only, nothing is unpickled
            self._explorer.load_state_dict(torch.load(place, weights_only=True))


class ExplorationGRPOTrainer(ExploringTrainer, GRPOTrainer):
    """GRPOTrainer whose rewards, advantages or loss a signal of g2rl shapes.

        trainer = ExplorationGRPOTrainer(signal="g2rl", observers=["none"], model=..., ...)

    Evaluation sees the reward functions alone. Rewards are logged as TRL logs them, what the signal
    adds as `rewards/exploration`, its metrics as `explore/NAME` and those of observers as
    `observe/OBSERVER/NAME`. Completions have to be of one turn, and prompts without images where a
    signal or an observer needs scores of the policy.

    Args:
        args, kwargs: what GRPOTrainer takes.
        signal: the signal, or the name of its file in conf/exploration; several of them act
            together as in `g2rl.exploration.combined`.
        observers: signals that measure without effect, likewise.
        verdict: the reward function that says whether an answer is right: its number, or its name
            in TRL's logs. Others may stand beside it.
        wrong_right: its two values. It may return None for whole groups, which the signal then
            does not see.
        encoder: embeds completions, for signals that need it; an object or a name in conf/encoder.
        partition: says which completions count as the same; an object or a name in conf/partition.
        answers: reads final answers, for signals and partitions that need them; a
            `g2rl.integrations.rewards.VerifierReward` does.
        feature_temperature: temperature of p_t in gradient features; None takes that of the
            sampling.
        score_tokens: padded tokens of one forward that scores.

    Raises:
        ValueError: a signal, an observer or a setting of TRL that does not go together with this;
            the message names it.
        TypeError: a signal that needs the policy, with an output head that is not linear.
    """

    # attributes of TRL's trainer that are changed here
    entropy_coef: float
    parts = TRL_PARTS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own_entropy_coef = self.entropy_coef

    def _make_rule(self) -> TrlAdvantage:
        """What TRL's GRPO makes of rewards."""
        return TrlAdvantage(
            scale=self.scale_rewards, group_size=self.num_generations, unit=self._unit()
        )

    def _refuse_own(self, who: str) -> None:
        """Refuse settings of GRPO that leave no place for what a signal adds."""
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                f"{who} shapes the sum of rewards: multi_objective_aggregation="
                f"{self.multi_objective_aggregation!r} is not supported, use 'sum_then_normalize'"
            )
        if self.tools:
            raise ValueError(f"{who}: {SEVERAL_TURNS}")

    def _generate(self, prompts: list[Any], *rest: Any) -> Any:
        """As TRL generates; several turns are refused."""
        # a function of the caller may sample in several turns, and says so by a mask
        output = super()._generate(prompts, *rest)
        if output[2] is not None and self.model.training:
            raise ValueError(f"signal {self._explorer.signal.name} inside TRL: {SEVERAL_TURNS}")
        return output

    def _explore(self, rewards_NF: Tensor, inputs: Any, prompts: Any, completions: Any) -> Tensor:
        """As for every trainer; a batch that the signal does not see has TRL's own bonus."""
        self._set_entropy_bonus(0.0)
        return super()._explore(rewards_NF, inputs, prompts, completions)

    def _take_in(self, shaped: Shaped, batch: GroupBatch, judged_P: Tensor) -> None:
        """As for every trainer; an entropy bonus adds to TRL's own."""
        super()._take_in(shaped, batch, judged_P)
        self._set_entropy_bonus(shaped.entropy_coef)

    def _set_entropy_bonus(self, added: float) -> None:
        """Add a signal's entropy coefficient to TRL's, for the batch at hand."""
        # an adaptive coefficient belongs to TRL, and a signal that adds to it has been refused
        if not self.use_adaptive_entropy:
            self.entropy_coef = self._own_entropy_coef + added
            self._entropy_bonus_enabled = self.entropy_coef != 0

    def _refuse_parts(self, shaped: Shaped) -> None:
        """Refuse parts of a signal that GRPO's loss has no place for under these settings."""
        super()._refuse_parts(shaped)
        who = f"signal {self._explorer.signal.name} inside TRL"

        # fused losses of older versions take one advantage a response and no bonus
        fused = getattr(self, "use_liger_kernel", False)
        if shaped.entropy_coef and (self.use_adaptive_entropy or fused):
            raise ValueError(
                f"{who} sets an entropy bonus: switch use_adaptive_entropy and use_liger_kernel off"
            )

        # a response without weight must be missing from the divisor as well
        if shaped.kept_PG is not None and self.loss_type not in COUNTED_BY_TOKENS:
            raise ValueError(
                f"{who} leaves responses out, but loss_type={self.loss_type!r} would still count "
                f"them: use one of {COUNTED_BY_TOKENS}"
            )

        # losses that weigh a sequence as a whole have no place for single tokens
        whole = self.loss_type == "vespo" or self.off_policy_mask_threshold is not None
        if shaped.token_bonus is not None and (whole or fused):
            raise ValueError(
                f"{who} gives a bonus to single tokens, which loss_type='vespo', "
                "off_policy_mask_threshold and use_liger_kernel do not take"
            )


# --- pieces


@dataclass(slots=True, frozen=True)
class Record:
    """One response, as processes tell it to each other."""

    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    answer: str | None
    problem_id: str


def no_reward(prompts: Sequence[Any], **_: Any) -> list[None]:
    """The reward function of the added column, which `_calculate_rewards` fills."""
    return [None] * len(prompts)


def problem_id_of(row: Mapping[str, Any], prompt: str | Messages) -> str:
    """The column problem_id of a row, or else the text of what was asked."""
    if "problem_id" in row:
        return str(row["problem_id"])
    return text_of(prompt)


def add_group(rollouts: Rollouts, group: Sequence[Record], token_limit: int) -> None:
    """Add the responses to one prompt.

    Raises:
        ValueError: they do not share their prompt.
    """
    first = group[0]
    if any(record.prompt_ids != first.prompt_ids for record in group):
        raise ValueError(
            f"the responses to {first.problem_id[:60]!r} have different prompts; a signal compares "
            "responses to one prompt"
        )

    # in the records of g2rl's own loop
    completions: list[Completion] = []
    for record in group:
        finish = "stop" if len(record.completion_ids) < token_limit else "length"
        completions.append(Completion(record.completion_ids, finish, record.text))
    rollouts.problems.append(Problem(first.problem_id, "", ""))
    rollouts.prompts.append(first.prompt_ids)
    rollouts.completions.append(completions)


def _signal(choice: Signal | str | Sequence[Signal | str], rule: SummedRewards) -> Signal:
    """A signal that makes advantages, where it does so itself, as TRL does.

    Args:
        choice: a signal, its name, or several of both, which act together.
        rule: TRL's advantages.
    """
    if isinstance(choice, Sequence) and not isinstance(choice, str):
        parts = [_named("exploration", part) for part in choice]
        return Combined(parts, cast(GroupAdvantage, rule))

    # a combination that was made elsewhere has another rule, and belongs to the caller
    signal = _named("exploration", choice)
    if isinstance(signal, Combined):
        signal = copy.copy(signal)
        signal.advantage = cast(GroupAdvantage, rule)
    return signal


def _named(group: str, choice: Any) -> Any:
    """The object of a file in conf/, or the object that was given."""
    return build_named(group, choice) if isinstance(choice, str) else choice
