"""The plug-in inside the real verl, as far as a CPU goes; run with `make test-verl`."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from g2rl.policy.batching import Sequences
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, score
from tests import commands

pytest.importorskip("verl")
os.environ.setdefault("G2RL_SIGNAL", "none")
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, get_adv_estimator_fn
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils import tensordict_utils
from verl.workers.engine.base import EngineRegistry

from g2rl.exploration.g2rl import GradientGuided
from g2rl.integrations import verl as plugin
from g2rl.integrations.groups import OutcomeSignal, verl_advantages

PROMPTS = [[1, 3, 25, 29, 24, 4, 35, 5], [1, 3, 26, 5], [1, 3, 25, 29, 24, 4, 35, 5], [1, 3, 26, 5]]
RESPONSES = [[20, 24, 14, 2], [20, 2], [10, 25, 14, 24, 13, 2], [9]]
TAU = 0.7


def jagged(rows: list[Any]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(
        [torch.as_tensor(row) for row in rows], layout=torch.jagged
    )


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin._signals.clear()
    monkeypatch.setenv("G2RL_SIGNAL", "none")


def test_verl_finds_what_the_module_registers(tmp_path: Path) -> None:
    """By the environment alone, in a process that has not imported g2rl."""
    program = (
        "import verl\n"
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn\n"
        "from verl.trainer.ppo.v1 import get_trainer_cls\n"
        "print(get_adv_estimator_fn('g2rl').__module__, get_trainer_cls('g2rl').__name__)\n"
    )
    done = commands.run(
        ["-c", program],
        tmp_path,
        fresh=True,
        VERL_USE_EXTERNAL_MODULES="g2rl.integrations.verl",
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
    )
    assert "g2rl.integrations.verl ExplorationTrainer" in done.stdout, done.stderr


def test_the_engine_is_chosen_by_its_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    monkeypatch.setenv("VERL_ENGINE_VENDOR", "g2rl")
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is plugin.FeatureEngine
    monkeypatch.setenv("VERL_ENGINE_VENDOR", "nvidia")
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is not plugin.FeatureEngine


@pytest.mark.parametrize("divide", [True, False])
def test_without_exploration_the_estimator_is_verls_grpo(divide: bool) -> None:
    rewards = torch.zeros(6, 4)
    rewards[[0, 3], [3, 1]] = 1.0
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]] * 2).float()
    index = np.array(["b", "a", "b", "a", "a", "b"], dtype=object)
    config = {"norm_adv_by_std_in_grpo": divide}
    found = get_adv_estimator_fn("g2rl")(rewards, mask, index=index, config=config)
    expected = compute_grpo_outcome_advantage(
        rewards.clone(), mask, index, norm_adv_by_std_in_grpo=divide
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    single = compute_grpo_outcome_advantage(rewards[:1].clone(), mask[:1], index[:1])
    torch.testing.assert_close(verl_advantages(torch.ones(1, 1)), single[0][:, :1])


def test_a_signal_that_needs_the_model_is_refused_by_the_estimator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("G2RL_SIGNAL", "g2rl")
    with pytest.raises(ValueError, match="features"):
        get_adv_estimator_fn("g2rl")(torch.ones(2, 1), torch.ones(2, 1), index=np.array([0, 0]))
    monkeypatch.setenv("G2RL_SIGNAL", "")
    with pytest.raises(ValueError, match="set G2RL_SIGNAL"):
        get_adv_estimator_fn("g2rl")(torch.ones(2, 1), torch.ones(2, 1), index=np.array([0, 0]))


def engine_around(model: Any) -> Any:
    """verl's engine around a model on a CPU, without its start, which wants a GPU."""
    engine = object.__new__(plugin.FeatureEngine)
    engine.module = model.eval()
    engine.use_ulysses_sp = False
    engine.ulysses_sequence_parallel_size = 1
    engine.pad_to_length = None
    engine._autocast_dtype = torch.float32
    engine.engine_config = SimpleNamespace(
        entropy_checkpointing=False, entropy_from_logits_with_chunking=False
    )
    engine.compute_entropy_from_logits = lambda logits: (
        -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    )
    engine.get_data_parallel_group = lambda: None
    return engine


def micro_batch(**changes: Any) -> TensorDict:
    rows = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    batch = TensorDict(
        {
            "input_ids": jagged(rows),
            "position_ids": jagged([torch.arange(len(row)) for row in rows]),
            "responses": jagged(RESPONSES),
        },
        batch_size=len(rows),
    )
    settings = {"temperature": TAU, "use_remove_padding": True, "calculate_entropy": True}
    tensordict_utils.assign_non_tensor(batch, **{**settings, **changes})
    return batch


def test_phi_of_the_engines_forward_equals_g2rls(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real forward step of verl's engine, packed rows, on a CPU."""
    monkeypatch.setattr("verl.workers.engine.fsdp.transformer_impl.get_device_id", lambda: "cpu")
    monkeypatch.setattr("verl.workers.engine.fsdp.transformer_impl.get_device_name", lambda: "cpu")
    engine = engine_around(copy.deepcopy(tiny.model))
    with torch.no_grad():
        _, output = engine.forward_step(micro_batch(), None, True)
    expected = score(
        Policy(copy.deepcopy(tiny.model)),
        Sequences(PROMPTS, RESPONSES),
        ScoreRequest(TAU, 4096, features=True),
    )
    assert expected.features_ND is not None
    found = output["model_output"]
    torch.testing.assert_close(found[plugin.FEATURES], expected.features_ND, rtol=1e-5, atol=1e-6)
    # and the engine's own outputs are still there: log-probabilities of the packed rows
    first = found["log_probs"].unbind()[0][len(PROMPTS[0]) - 1 : -1]
    torch.testing.assert_close(first, expected.logps[0], rtol=1e-4, atol=1e-5)

    with torch.no_grad(), pytest.raises(ValueError, match="use_remove_padding"):
        engine.forward_step(micro_batch(use_remove_padding=False), None, True)


def recorded() -> dict[str, Any]:
    """A batch as verl's trainer holds it: two prompts, two responses each, out of order."""
    rewards = [
        [0.0] * (len(response) - 1) + [float(n in (0, 3))] for n, response in enumerate(RESPONSES)
    ]
    generator = torch.Generator().manual_seed(1)
    return {
        "uid": np.array(["x", "y", "x", "y"], dtype=object),
        "rm_scores": jagged(rewards),
        "response_mask": jagged([[1] * len(response) for response in RESPONSES]),
        "entropy": jagged([torch.rand(len(response)) for response in RESPONSES]),
        "old_log_probs": jagged([-torch.rand(len(response)) for response in RESPONSES]),
        plugin.FEATURES: torch.randn(4, 6, generator=generator),
    }


def test_advantages_of_a_recorded_batch_are_those_of_the_signal() -> None:
    data, metrics = recorded(), {}
    exploration = OutcomeSignal(GradientGuided(), offered=plugin.OFFERED)
    found = plugin.replaced_advantages(data, exploration, 3, metrics)
    rewards_N = torch.tensor([1.0, 0.0, 0.0, 1.0])
    lengths_N = torch.tensor([len(response) for response in RESPONSES])
    columns = {"features_PGD": data[plugin.FEATURES]}
    expected, _ = exploration(rewards_N, lengths_N, ["x", "y", "x", "y"], columns)
    for row, advantage, response in zip(
        found["advantages"].unbind(), expected, RESPONSES, strict=True
    ):
        assert row.tolist() == [float(advantage)] * len(response)
    assert "explore/nu_mean" in metrics
    assert data["rm_scores"].unbind()[0][-1] == 1.0, "verl's log of the verdict was changed"

    del data[plugin.FEATURES]
    with pytest.raises(ValueError, match="VERL_ENGINE_VENDOR"):
        plugin.replaced_advantages(data, exploration, 3, metrics)


def test_the_trainer_wants_grpo_below_it() -> None:
    config = SimpleNamespace(algorithm=SimpleNamespace(adv_estimator="gae"))
    with pytest.raises(ValueError, match="adv_estimator=grpo"):
        get_trainer_cls("g2rl")(config)
