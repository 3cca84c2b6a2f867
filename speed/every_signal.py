"""What every exploration signal costs: its own work, and what it makes the rest of the step do.

1. *Own work*: everything between scoring and advantages (embeddings, partition, the signal itself)
   on one batch of 16 x 16 responses of the tiny policy, as a share of a whole step of
   exploration=none after sampling.
2. *Whole steps* of one signal for each kind of need, against exploration=none.

CPU seconds of this process and one thread, because the cores are shared, and the least of all
repeats on either side, because whatever interferes can only add.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from builder import make_trainer, replay
from harness import Row, options, report

from g2rl.cli.config.choices import choices
from g2rl.training.trainer import Trainer

STILL = "optimizer.lr=1e-9"
"""The policy stays as it is, so that every repeat does the same."""
NEEDS = {
    "outcome": "answers, advantages",
    "unlikeliness": "log-probabilities",
    "forking_tokens": "token entropies",
    "g2rl": "gradient features",
    "repexp": "hidden states of the reference",
    "repexp exploration.features=hidden": "hidden states of the policy",
    "evol": "embeddings, no forward is kept",
    "nsr": "responses left out",
}
"""One signal for each kind of need."""


def least_cpu_seconds(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least CPU seconds of each of some calls, which are made in turns."""
    least = [float("inf")] * len(calls)
    for _ in range(repeats):
        for place, call in enumerate(calls):
            started = time.process_time()
            call()
            least[place] = min(least[place], time.process_time() - started)
    return least


def own_work(trainer: Trainer) -> Callable[[], object]:
    """What a signal does between scoring and advantages, on one batch of the trainer."""
    step = trainer.step
    rollouts = step.sampler(1)
    verdicts = step.grader.grade(rollouts.items)
    reference = step.scorer.reference_scores(rollouts)
    scores = step.scorer.behaviour(1, rollouts)
    scores.take_forwards()

    def explore() -> object:
        # a step has texts of its own, so its embeddings are not at hand
        if step.explorer.encoder is not None:
            step.explorer.encoder.texts = None  # type: ignore[attr-defined]
        batch = step.explorer.group_batch(1, rollouts, verdicts, scores, reference.hidden_ND)
        return step.explorer.shape(batch)

    return explore


def main() -> None:
    """Time the own work of every choice, then whole steps for every kind of need."""
    args = options(__doc__.splitlines()[0], repeats=5)
    torch.set_num_threads(1)
    plain = make_trainer("exploration=none", STILL)
    replay(plain, 1)
    plain.step(1)
    [step_seconds] = least_cpu_seconds([lambda: plain.step(1)], args.repeats)

    rows: list[Row] = []
    for name in choices("exploration"):
        explore = own_work(make_trainer(f"exploration={name}", STILL))
        explore()
        [seconds] = least_cpu_seconds([explore], 4 * args.repeats)
        share = seconds / step_seconds
        note = f"{1e3 * seconds:.3g} ms of {step_seconds:.3g} CPU s"
        label = f"own work of exploration={name}"
        rows.append(Row(label, "a step of none", "CPU time", share, share, share, "<= 0.03", note))
        report(rows[-1:])

    for words, need in NEEDS.items():
        trainer = make_trainer(f"exploration={words.split()[0]}", *words.split()[1:], STILL)
        replay(trainer, 1)
        trainer.step(1)
        calls = [lambda t=trainer: t.step(1), lambda: plain.step(1)]
        ours, peer = least_cpu_seconds(calls, args.repeats)
        note = f"{need}; {ours:.3g} CPU s against {peer:.3g}"
        label, ratio = f"whole step, exploration={words}", ours / peer
        rows.append(Row(label, "exploration=none", "CPU time", ratio, ratio, ratio, "", note))
        report(rows[-1:])
    report(rows, args.json)


if __name__ == "__main__":
    main()
