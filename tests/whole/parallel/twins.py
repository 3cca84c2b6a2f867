"""Run a function of a test file in several fresh processes, as torchrun would; and what they
compute.

python twins.py FUNCTION FOLDER          with the variables that torchrun sets
"""

from __future__ import annotations

import copy
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.distributed.tensor import DTensor, Shard

from g2rl.cli.build.model import frozen_copy
from g2rl.engines.transformers import TransformersEngine
from g2rl.exploration.clip_cov import ClipCov
from g2rl.exploration.entropy_advantage import EntropyAdvantage
from g2rl.exploration.forking_tokens import ForkingTokens
from g2rl.exploration.kl_cov import KLCov
from g2rl.exploration.token_plan import TokenPlan, TokenPlanner, TokenView, merge_plans
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy.batching import Sequences
from g2rl.policy.lm_head import head
from g2rl.policy.loading import load, set_checkpointing
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScorePlan, ScoreRequest, require_scored, score
from g2rl.policy.sharding import ShardSettings
from g2rl.training.micro_batch_update import UpdateBatch
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.updater import Updater
from g2rl.types import SamplingParams
from g2rl.world import World
from tests import commands

HERE = Path(__file__).resolve()
RESPONSES = [  # groups of two; the third has a group without tokens, the fourth one long response
    [23, 34, 25, 26, 2],
    [23],
    [24, 34],
    [25, 34, 26, 2],
    [],
    [],
    [23, 34] * 12 + [2],
    [34, 2],
    [24],
    [25, 26, 2],
    [27, 28, 2],
    [34, 27, 28, 29, 30, 2],
]


def launch(function: str, folder: Path, size: int = 2) -> None:
    """Run `function(folder)` of this file in `size` processes; fails with their output."""
    ports = free_ports(4)
    started = []
    for rank in range(size):
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": ports[0],
            "PORTS": " ".join(map(str, ports)),
            "OMP_NUM_THREADS": 1,
        }
        environment = {name: str(value) for name, value in variables.items()}
        started.append(commands.start([str(HERE), function, str(folder)], folder, **environment))
    try:
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * size, "\n".join(said)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


# ---- one rollout batch under many settings


def untied() -> Policy:
    """A small random Qwen3 whose head is a matrix of its own, or with `tie` the embedding."""
    return small(tie=False)


def tied() -> Policy:
    return small(tie=True)


def small(tie: bool) -> Policy:
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "vocab_size": 101,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "tie_word_embeddings": tie,
    }
    return Policy(
        load("builtin:tiny", device="cpu", overrides=sizes, random_init=True).model,
        tile_bytes=1 << 14,
    )


def checkpointed() -> Policy:
    policy = untied()
    set_checkpointing(policy.model, True)
    return policy


def adapted() -> Policy:
    policy = tied()
    add_lora(policy.model, LoraSettings(r=2, include_head=True), "builtin:tiny")
    torch.manual_seed(4)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def sharing() -> Policy:
    """One that computes the prompt of a group once."""
    policy = tied()
    policy.prefix_sharing = "on"
    policy.check()
    return policy


def poisoned(batch: UpdateBatch) -> None:
    batch.advantages_N[6] = torch.nan


def planned(view: TokenView) -> TokenPlan:
    """Four token-level signals at once: weights, shifts, bounds and anchors."""
    signals = (
        ClipCov(share=0.2, cov_low=0.01, cov_high=99.0, clip_low=None, clip_high=None),
        KLCov(share=0.3, coefficient=0.5),
        ForkingTokens(share=0.6),
        EntropyAdvantage(),
    )
    return merge_plans([(signal.name, signal.tokens(view)) for signal in signals])


FUSED = head._fused
TWO_STEPS = (1, 2)
"""The second step begins with moments, and with weights that the first one has moved."""

# the first four are normalisers of the loss, the others divide by a constant; checkpointing and
# whole gradients are tried under one of them each, as every case takes seconds of two processes
CASES: dict[str, dict[str, Any]] = {
    "token_mean": {"steps": TWO_STEPS},
    "sequence_mean": {"policy": checkpointed},
    "sequence_sum": {"shards": ShardSettings(accumulate="full", reshard_after_forward=False)},
    "group_mean": {"policy": tied},
    "LoRA": {"policy": adapted, "steps": TWO_STEPS},
    "fused": {"policy": tied, "fuse_from": 0},
    "bad numbers": {"spoil": poisoned},
    "token plan": {"epochs": 2, "planner": planned},
    "left out": {"epochs": 2, "left_out": (0, 3, 4, 5, 9)},
    "bfloat16": {"shards": ShardSettings(param_dtype="bfloat16")},
    "shared prompts": {"policy": sharing, "one_prompt": True},
}


def outcome(
    name: str, world: World, fuse_from: int = head.FUSE_FROM, **case: Any
) -> dict[str, Any]:
    """What `_outcome` finds; the head is as it was afterwards.

    Args:
        name, case: one of `CASES`.
        fuse_from: words from which the loss is differentiated in the head's forward.
    """
    fused: list[int] = []

    def noted(*inputs: Any) -> Any:
        fused.append(1)
        return FUSED(*inputs)

    with mock.patch.multiple(head, _fused=noted, FUSE_ROWS=0, FUSE_FROM=fuse_from):
        found = _outcome(name, world, **case)
    assert bool(fused) == (fuse_from == 0)
    return found


def _outcome(
    name: str,
    world: World,
    policy: Callable[[], Policy] = untied,
    shards: ShardSettings | None = None,
    epochs: int = 1,
    spoil: Callable[[UpdateBatch], None] = lambda batch: None,
    planner: TokenPlanner | None = None,
    left_out: Sequence[int] = (),
    one_prompt: bool = False,
    steps: Sequence[int] = (1,),
) -> dict[str, Any]:
    """Scores, gradients of every mini-batch of the first step, and metrics and weights of each
    step; whole tensors, but for this rank's part of gradients."""
    model = policy()
    reference = frozen_copy(model)
    if world.mesh is not None:
        model.shard(world.mesh, shards or ShardSettings())
        if reference.__class__.__name__ != "AdaptersOff":
            reference.shard(world.mesh, shards or ShardSettings())
    updater = Updater(
        model,
        PolicyLoss(kl_coef=0.01, normalizer=name if name.endswith(("mean", "sum")) else "constant"),
        OptimizerSettings(lr=1e-3, mini_batches=5, micro_batch_tokens=40, epochs=epochs),
        temperature=0.9,
        max_tokens=20,
        total_updates=10,
        seed=0,
        world=world,
    )
    count = len(RESPONSES)
    prompts = [[1, 3, 27, 30, 5][: 2 + n % 3] for n in range(count)]
    if one_prompt:
        prompts = [[1, 3, 27, 30, 5, 20 + n // 2][n % 4 // 2 :] for n in range(count)]
    sequences = Sequences(prompts, RESPONSES)
    common = {"temperature": 0.9, "token_budget": 60}
    ref = score(reference, sequences, ScoreRequest(**common), world)
    scores = score(model, sequences, ScoreRequest(features=True, hidden=True, **common), world)
    batch = UpdateBatch(
        sequences=sequences,
        group_N=torch.arange(count) // 2,
        behaviour=scores,
        advantages_N=torch.linspace(-1, 1.4, count),
        ref_logps=require_scored(ref.logps),
        entropy_coef=0.01,
        token_planner=planner,
    )
    if left_out:
        batch.keep_N = torch.tensor([n not in left_out for n in range(count)])
    spoil(batch)
    found: dict[str, Any] = {
        "logps": torch.cat(require_scored(scores.logps)),
        "ref": torch.cat(require_scored(ref.logps)),
        "entropy": scores.mean_entropy_N,
        "features": scores.features_ND,
        "hidden": scores.hidden_ND,
        "gradients": [],
        "losses": [],
    }
    updater._accumulate_gradients = recorded(updater, found)  # type: ignore[method-assign]
    for step in steps:
        late = updater.rows_to_score(batch.group_N, step)
        if planner is not None or left_out:
            late = list(range(count))
        batch.behaviour = score(
            model, sequences, ScoreRequest(**common, plan=ScorePlan([late])), world
        )
        result = updater.step(batch, step)
        vars(updater).pop("_accumulate_gradients", None)  # one step of them is enough
        found[f"metrics {step}"] = result.metrics
        found[f"late {step}"] = torch.cat(require_scored(result.behaviour.logps))
        found[f"weights {step}"] = {n: t.clone() for n, t in model.weights()}
    return found


def recorded(updater: Updater, found: dict[str, Any]) -> Callable[..., Any]:
    """What the updater adds up the gradient of a mini-batch with, which notes the losses and the
    gradients before they are clipped."""
    accumulate = updater._accumulate_gradients

    def accumulate_and_note(*inputs: Any) -> Any:
        metrics, suspect_rows = accumulate(*inputs)
        found["losses"].append(dict(metrics))
        parameters = updater.policy.named_parameters()
        gradients = {n: own_part(p.grad) for n, p in parameters if p.grad is not None}
        found["gradients"].append(gradients)
        return metrics, suspect_rows

    return accumulate_and_note


def own_part(gradient: torch.Tensor) -> torch.Tensor:
    """What this rank holds of it, which `joined` puts together without the ranks' waiting."""
    if not isinstance(gradient, DTensor):
        return gradient.clone()
    assert gradient.placements == (Shard(0),)
    return gradient.to_local().clone()


def joined(ranks: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
    """The whole gradients of every mini-batch of a case, of what each rank has found of it."""
    return [
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*(found["gradients"] for found in ranks), strict=True)
    ]


def sampled(world: World) -> list[Any]:
    """What the engine samples before and after the policy has changed, on this rank."""
    policy = Policy(load("builtin:tiny", device="cpu").model)
    if world.mesh is not None:
        policy.shard(world.mesh, ShardSettings())
    engine = TransformersEngine(policy, load("builtin:tiny", device="cpu").tokenizer, [2])
    found = []
    for _ in range(2):
        engine.push_weights()
        prompts = [[1, 3, 27, 30, 5], [1, 3, 28], [1, 4, 27, 30]]
        own = engine.generate(
            world.deal(prompts),
            world.deal([(0, p) for p in range(3)]),
            3,
            SamplingParams(max_tokens=12),
        )
        found.append(copy.deepcopy(world.collect(own)))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.5)
    return found


def updates(folder: Path) -> None:
    """All cases, by the ranks together."""
    world = World.join(torch.device("cpu"))
    found: dict[str, Any] = {name: outcome(name, world, **case) for name, case in CASES.items()}
    found["sampled"] = sampled(world)
    found["largest"] = world.largest(world.rank * 10)
    found["collected"] = world.collect([item * item for item in world.deal(range(7))])
    found["first"] = world.from_first(lambda: world.rank)
    torch.save(found, folder / f"rank{world.rank}.pt")
    world.close()


# ---- the whole command


def training(folder: Path) -> None:
    """Train in, or continue, the folders whose overrides stand in jobs.pt, one after another.

    Only the first draws its figures.
    """
    from g2rl.analysis.figures.one_run import plot_run
    from g2rl.cli.jobs import train as train_job
    from g2rl.runs.interrupt import Interrupted

    jobs = torch.load(folder / "jobs.pt", weights_only=False)
    without_figures, train_job.plot_run = train_job.plot_run, plot_run
    for port, (name, overrides, stop_at) in zip(os.environ["PORTS"].split(), jobs, strict=False):
        os.environ["MASTER_PORT"] = port  # a rank that is done must not meet the others' last group
        try:
            train_in(folder / name, overrides, stop_at)
        except Interrupted:
            assert stop_at
        train_job.plot_run = without_figures


def train_in(folder: Path, overrides: list[str], stop_at: int = 0) -> None:
    """Train; asked to stop on rank 1 alone (if there is one) in step `stop_at`."""
    import signal

    from g2rl.cli.jobs.train import train
    from g2rl.training.stages import Sampler
    from tests.support import SMOKE, composed

    config = composed(*SMOKE, *overrides)
    sample = Sampler.__call__

    def signalled(self: Sampler, step: int) -> Any:
        if step == stop_at and self.world.rank == self.world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return sample(self, step)

    Sampler.__call__ = signalled  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    try:
        train(config, folder)
    finally:
        Sampler.__call__ = sample  # type: ignore[method-assign]


# ---- the sizes of a real model


def large_plain(folder: Path) -> None:
    full_step(World(), folder)


def large_sharded(folder: Path) -> None:
    world = World.join(torch.device("cpu"))
    full_step(world, folder)
    world.close()


def full_step(world: World, folder: Path) -> None:
    """Sample, score with features, score the reference, update once: V = 151,936, D = 2048, two
    layers."""
    started = time.perf_counter()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 2,
        "vocab_size": 151_936,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    }
    loaded = load("builtin:tiny", device="cpu", overrides=sizes, random_init=True)
    policy = Policy(loaded.model)
    reference = frozen_copy(policy)
    if world.mesh is not None:
        policy.shard(world.mesh, ShardSettings())
        reference.shard(world.mesh, ShardSettings())
    updater = Updater(
        policy,
        PolicyLoss(kl_coef=0.001),
        OptimizerSettings(lr=1e-3, mini_batches=1),
        temperature=1.0,
        max_tokens=8,
        total_updates=1,
        seed=0,
        world=world,
    )
    engine = TransformersEngine(policy, loaded.tokenizer, [2])
    engine.push_weights()
    groups = engine.generate(
        [[1, 3, 27], [1, 4]], [(0, 0), (0, 1)], 2, SamplingParams(max_tokens=8)
    )
    responses = [completion.token_ids for group in groups for completion in group]
    sequences = Sequences([[1, 3, 27]] * 2 + [[1, 4]] * 2, responses)
    common = {"temperature": 1.0, "token_budget": 64}
    scores = score(policy, sequences, ScoreRequest(features=True, **common), world)
    batch = UpdateBatch(
        sequences=sequences,
        group_N=torch.tensor([0, 0, 1, 1]),
        behaviour=scores,
        advantages_N=torch.tensor([1.0, -1.0, 1.0, -1.0]),
        ref_logps=require_scored(score(reference, sequences, ScoreRequest(**common), world).logps),
    )
    metrics = updater.step(batch, 1).metrics
    engine.push_weights()
    assert scores.features_ND is not None
    found = {
        "responses": responses,
        "metrics": metrics,
        "features": scores.features_ND,
        "seconds": 0.0,
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "after": torch.cat(
            require_scored(score(policy, sequences, ScoreRequest(**common), world).logps)
        ),
    }
    found["seconds"] = time.perf_counter() - started
    torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = {
        "updates": updates,
        "training": training,
        "large_plain": large_plain,
        "large_sharded": large_sharded,
    }
    jobs[sys.argv[1]](Path(sys.argv[2]))
