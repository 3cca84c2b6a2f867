"""A small TRL job: the tiny policy, two Countdown problems, four responses to each, no sampling.

python small_trl.py FOLDER RESPONSES_OF_A_PROCESS     one step, with torchrun's variables
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from pathlib import Path
from typing import Any

import accelerate.utils.imports
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from g2rl.exploration import GroupBatch, Shaped, Stateless
from g2rl.integrations.rewards import VerifierReward, rows_of
from g2rl.integrations.trl import ExplorationGRPOTrainer
from g2rl.policy.loading import LoadedModel, load
from g2rl.tasks.countdown import Countdown

GROUP, PROBLEMS = 4, 2
COUNT = GROUP * PROBLEMS
RESPONSES = [  # of both problems; of each group one is right, and lengths differ
    [3, 2],
    [],  # the right answer of the first problem stands here
    [9, 10, 11, 2],
    [24, 25, 26, 27, 28],
    [12, 21, 25, 15, 25, 22, 2],
    [31, 2],
    [],
    [20, 20, 2],
]
RIGHT = {1: "2 + 2 + 6", 6: "6 * 6 + 8 - 8"}
"""The right responses to `use 2 2 6 make 10` and `use 6 6 8 8 make 36`."""
PROBLEMS_OF_TASK = Countdown().batch(0, 0, PROBLEMS)
DATASET = Dataset.from_list(rows_of(PROBLEMS_OF_TASK))
"""The problems as TRL takes them, which changes no data set in place."""

# each trainer asks some dozen times whether peft is installed, and each time its metadata are read
accelerate.utils.imports._is_package_available = functools.cache(
    accelerate.utils.imports._is_package_available
)


def responses(tokenizer: Any) -> list[list[int]]:
    """Token ids of the eight responses."""
    filled = [list(ids) for ids in RESPONSES]
    for number, expression in RIGHT.items():
        filled[number] = [*tokenizer.encode(f"so \\boxed{{ {expression} }}"), 2]
    return filled


class Watch(Stateless):
    """A signal that keeps what it was shown, and says what the test wants it to say."""

    name = "watch"

    def __init__(self, *needs: str, say: Any = None, level: str = "reward") -> None:
        self.needs, self.level = frozenset(needs), level
        self.say = say
        self.batches: list[GroupBatch] = []

    def __call__(self, batch: GroupBatch) -> Shaped:
        self.batches.append(batch)
        return Shaped(batch.rewards_PG) if self.say is None else self.say(batch)


def config(folder: Path, kind: Any = GRPOConfig, **changes: Any) -> Any:
    """Settings of a job of one step on all eight responses."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "per_device_train_batch_size": COUNT,
        "per_device_eval_batch_size": COUNT,
        "num_generations": GROUP,
        "max_completion_length": 24,
        "temperature": 0.8,
        "learning_rate": 1e-3,
        "max_steps": 1,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "shuffle_dataset": False,
        **changes,
    }
    return kind(**settings)


def trainer(
    loaded: LoadedModel,
    folder: Path,
    kind: Any = ExplorationGRPOTrainer,
    model: Any = None,
    reward_funcs: Any = None,
    fixed: bool = True,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A trainer on a copy of the tiny policy.

    Args:
        kind: a trainer of TRL, or one with signals.
        model: in place of the copy.
        reward_funcs: in place of Countdown's verifier.
        fixed: the responses are those above; otherwise they are sampled.
        settings: of the trainer's configuration.
        options: further arguments of the trainer.
    """
    if reward_funcs is None:
        reward_funcs = VerifierReward(Countdown().verifier)
    is_rloo = issubclass(kind, RLOOTrainer)
    made: GRPOTrainer = kind(
        model=copy.deepcopy(loaded.model) if model is None else model,
        reward_funcs=reward_funcs,
        args=config(folder, RLOOConfig if is_rloo else GRPOConfig, **(settings or {})),
        train_dataset=DATASET,
        eval_dataset=DATASET,
        processing_class=loaded.tokenizer,
        **options,
    )
    if fixed:
        ids = responses(loaded.tokenizer)

        def respond(prompt_ids: list[list[int]], *_: Any) -> Any:
            first = made.accelerator.process_index * len(prompt_ids)
            own = ids[first : first + len(prompt_ids)]
            return own if is_rloo else (own, None)

        made._generate_single_turn = respond
    return made


def rows_of_a_step() -> list[dict[str, Any]]:
    """The rows that TRL's data loader gives for one step."""
    return [row for row in rows_of(PROBLEMS_OF_TASK) for _ in range(GROUP)]


def one_batch(made: Any) -> dict[str, Any]:
    """What the loss reads of one batch."""
    made.model.train()
    return made._generate_and_score_completions(rows_of_a_step())


def weights(made: Any) -> dict[str, Tensor]:
    """The weights of the policy."""
    model = made.accelerator.unwrap_model(made.model)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def observed_step(folder: Path, size: int) -> dict[str, Any]:
    """Train one step on one group of eight, and say what was seen and what came of it.

    Args:
        folder: for TRL's files.
        size: responses of each process; four of two processes share the group.
    """
    watch = Watch("features", "entropy", "logps", "hidden", "advantages", "token_entropy")
    changes: dict[str, Any] = {"num_generations": COUNT, "optim": "sgd", "learning_rate": 0.1}
    made = trainer(
        load("builtin:tiny", device="cpu"),
        folder,
        signal="g2rl",
        observers=[watch],
        settings={"per_device_train_batch_size": size, **changes},
    )
    made.train()
    [batch] = watch.batches
    return {
        "weights": weights(made),
        "batch": batch.tensors(),
        "token_entropies": batch.token_entropies,
    }


def main() -> None:
    """What one of several processes does: save what it has seen, in a file of its own."""
    torch.set_num_threads(1)
    folder, size, rank = Path(sys.argv[1]), int(sys.argv[2]), os.environ["RANK"]
    torch.save(observed_step(folder / "out", size), folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
