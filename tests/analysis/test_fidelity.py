"""Fidelity: true gradients against plain autograd, finite differences, closed forms; sketches;
tables."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from g2rl.analysis.fidelity.measure import Measured, measure, pair_table, response_table
from g2rl.analysis.fidelity.predictors import absolute_gap, jaccard, mean_hidden
from g2rl.analysis.fidelity.report import markdown
from g2rl.analysis.fidelity.summary import summarise
from g2rl.analysis.fidelity.true_gradients import (
    gram_cosines,
    gram_matrix,
    group_grams,
    parameter_blocks,
    response_gradient,
    sketch,
    sketch_error,
)
from g2rl.analysis.groups import GradedGroups, sample_groups
from g2rl.engines.rollouts import Rollouts
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.batching import Sequences
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.tasks.benchmarks.countdown import countdown_benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Completion, Problem, SamplingParams, Verdict

V, D, TAU = 11, 8, 0.7


class Shifted(nn.Module):
    """h = E[x] + b, z = W h: the gradient for b is Phi / tau, those for W and E have closed
    forms."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(V, D, dtype=torch.float64)
        self.norm_bias = nn.Parameter(torch.zeros(D, dtype=torch.float64))
        self.lm_head = nn.Linear(D, V, bias=False, dtype=torch.float64)
        self.config = SimpleNamespace(to_diff_dict=dict, to_dict=dict)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                )

    def base_model(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(last_hidden_state=self.embed(input_ids) + self.norm_bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def small_model(tied: bool) -> Any:
    config = Qwen3Config(
        vocab_size=V,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        tie_word_embeddings=tied,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    torch.manual_seed(3)
    return Qwen3ForCausalLM(config).double().eval()


def random_groups(problems: int, responses: int, seed: int = 0) -> GradedGroups:
    """Random tokens with random verdicts."""
    rng = np.random.default_rng(seed)
    completions, verdicts = [], []
    for _ in range(problems):
        tokens = [rng.integers(V, size=rng.integers(1, 7)).tolist() for _ in range(responses)]
        completions.append([Completion(t, "length", " ".join(map(str, t))) for t in tokens])
        verdicts.append([Verdict(bool(rng.integers(2)), None, "test") for _ in range(responses)])
    prompts = [[1, 2 + p % 5] for p in range(problems)]
    names = [Problem(f"p{p}", "text", "0") for p in range(problems)]
    return GradedGroups(Rollouts(names, prompts, completions), verdicts)


def group_of(groups: GradedGroups, p: int) -> Sequences:
    size = groups.rollouts.shape[1]
    sequences = groups.rollouts.sequences
    own = slice(p * size, (p + 1) * size)
    return Sequences(sequences.prompts[own], sequences.responses[own])


def mean_logp(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """The objective by plain logits, without the tiled head."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    picked = (logits / TAU).log_softmax(-1).gather(1, torch.tensor(response).unsqueeze(1))
    return picked.mean()


def plain_gradient(model: Any, prompt: list[int], response: list[int]) -> dict[int, Tensor]:
    model.zero_grad()
    mean_logp(model, prompt, response).backward()
    return {id(p): p.grad.clone() for p in model.parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_grams_are_those_of_plain_autograd_and_blocks_sum_to_all(tied: bool) -> None:
    model, sequences = small_model(tied), group_of(random_groups(1, 4), 0)
    blocks = parameter_blocks(model)
    ends = ["embedding + head"] if tied else ["embedding", "head"]
    assert sorted(blocks) == sorted([*ends, "layer.0", "layer.1", "final norm"])
    assert sum(p.numel() for own in blocks.values() for p in own) == sum(
        p.numel() for p in model.parameters()
    )
    found = group_grams(Policy(model), sequences, blocks, temperature=TAU)
    plain = [
        plain_gradient(model, p, r)
        for p, r in zip(sequences.prompts, sequences.responses, strict=True)
    ]
    total = np.zeros((4, 4))
    for name, own in blocks.items():
        rows = np.array([np.concatenate([g[id(p)].flatten().numpy() for p in own]) for g in plain])
        np.testing.assert_allclose(found[name], rows @ rows.T, rtol=1e-9, atol=1e-12)
        total += rows @ rows.T
    np.testing.assert_allclose(found["all"], total, rtol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_agree_with_finite_differences(tied: bool) -> None:
    """On GPT-2, whose norms stay in float64 (those of Qwen3 round to float32 inside)."""
    config = GPT2Config(
        vocab_size=V,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).double().eval()
    blocks = parameter_blocks(model)
    assert {"layer.0", "layer.1", "final norm", "other"} < set(blocks), "other: position embeddings"
    generator = torch.Generator().manual_seed(1)
    prompt, response, step = [1, 4], [3, 3, 7, 0], 1e-5
    for own in blocks.values():
        gradient = response_gradient(Policy(model), prompt, response, own, TAU)
        directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in own]
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(own, directions, strict=True):
                    p.add_(sign * step * d)
                values.append(float(mean_logp(model, prompt, response)))
                for p, d in zip(own, directions, strict=True):
                    p.sub_(sign * step * d)
        slope = (values[0] - values[1]) / (2 * step)
        expected = float(sum((g * d).sum() for g, d in zip(gradient, directions, strict=True)))
        assert expected == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_closed_forms_of_a_linear_softmax_model_and_phi_is_exact_for_a_hidden_bias() -> None:
    model, sequences = Shifted(), group_of(random_groups(1, 5), 0)
    policy = Policy(model)
    found = group_grams(policy, sequences, parameter_blocks(model), temperature=TAU)
    head, embedding, phi = [], [], []
    weight, table, shift = (
        p.detach().numpy() for p in (model.lm_head.weight, model.embed.weight, model.norm_bias)
    )
    for prompt, response in zip(sequences.prompts, sequences.responses, strict=True):
        inputs = [prompt[-1], *response[:-1]]
        g_head, g_embed, g_phi = np.zeros((V, D)), np.zeros((V, D)), np.zeros(D)
        for x, y in zip(inputs, response, strict=True):
            hidden = table[x] + shift
            p = np.exp(weight @ hidden / TAU)
            residual = np.eye(V)[y] - p / p.sum()
            g_head += np.outer(residual, hidden) / TAU / len(response)
            g_embed[x] += weight.T @ residual / TAU / len(response)
            g_phi += weight.T @ residual / len(response)
        head.append(g_head.ravel())
        embedding.append(g_embed.ravel())
        phi.append(g_phi)
    for name, rows, scale in (
        ("head", head, 1),
        ("embedding", embedding, 1),
        ("final norm", phi, TAU),
    ):
        expected = np.array(rows) @ np.array(rows).T / scale**2
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-14)
    features = score(
        policy, sequences, ScoreRequest(temperature=TAU, token_budget=100, features=True)
    ).features_ND
    np.testing.assert_allclose(features, np.array(phi), rtol=1e-5, atol=1e-6)


def test_planted_perfect_predictor_has_correlation_one_and_a_shuffled_one_none() -> None:
    groups, model = random_groups(20, 6), Shifted()
    measured = measure(Policy(model), groups, temperature=TAU, blocks=["final norm"])
    summary = summarise(measured, projection=None, resamples=300, seed=0)
    phi = next(row for row in summary["correlations"] if row["predictor"] == "phi")
    for kind in ("pearson", "spearman"):
        for part in (phi[kind], phi[f"{kind}_within"]):
            assert part["value"] == pytest.approx(1, abs=1e-4)
            assert part["low"] == pytest.approx(1, abs=1e-3)
    assert summary["novelty"]["pearson"]["value"] == pytest.approx(1, abs=1e-6)
    assert all(gap["spearman"]["low"] > 0.2 for gap in summary["phi_minus_rival"])
    assert "| Φ (gradient feature) | 1.000 [1.000, 1.000] | 1.000 [" in markdown(summary, "caption")
    shuffled = measured.pairs.copy()
    shuffled["phi"] = np.random.default_rng(5).permutation(shuffled["phi"])
    broken = Measured(shuffled, measured.responses, measured.blocks)
    row = summarise(broken, projection=None, resamples=300, seed=0)["correlations"][0]
    for kind in ("pearson", "spearman"):
        assert row[kind]["low"] < 0 < row[kind]["high"]
        assert abs(row[kind]["value"]) < 0.15


@pytest.mark.parametrize("spread", ["dense", "sparse"])
def test_error_of_the_sketch_is_unbiased_and_within_its_stated_bound(spread: str) -> None:
    cells, seeds = 64, 500
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 30), (50,), (20, 25)]
    first = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    second = [
        0.6 * x + 0.8 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        for x in first
    ]
    if (
        spread == "sparse"
    ):  # nearly everything in a few entries: collisions are rare, errors smaller
        mask = [(torch.rand(s, generator=generator) < 0.005).double() + 1e-3 for s in shapes]
        first, second = ([x * m for x, m in zip(v, mask, strict=True)] for v in (first, second))
    flat = [torch.cat([x.flatten() for x in v]) for v in (first, second)]
    exact = gram_matrix(flat)
    cosine = gram_cosines(exact)[0, 1]
    products, cosines = [], []
    for seed in range(seeds):
        parts = [
            [sketch(v[:1], cells, (seed, 0)), sketch(v[1:], cells, (seed, 1))]
            for v in (first, second)
        ]
        gram = gram_matrix([torch.cat(part) for part in parts])
        products.append(gram[0, 1])
        cosines.append(gram_cosines(gram)[0, 1])
    bound = float(sketch_error(np.array(cosine), cells))
    deviation = float(np.std(cosines))
    assert deviation <= 1.1 * bound
    assert abs(np.mean(products) - exact[0, 1]) < 4 * np.std(products) / np.sqrt(seeds)
    assert abs(np.mean(cosines) - cosine) < 4 * bound / np.sqrt(seeds) + 1 / cells
    if spread == "dense":
        assert bound == pytest.approx((1 - cosine**2) / 8)
        assert deviation >= 0.6 * bound, "the bound says something: it is nearly reached"


def test_sketches_are_linear_seeded_and_exact_when_short() -> None:
    vectors = [torch.randn(300, dtype=torch.float64) for _ in range(2)]
    one, two = (sketch([v], 32, (7, 1)) for v in vectors)
    torch.testing.assert_close(sketch([vectors[0] + 2 * vectors[1]], 32, (7, 1)), one + 2 * two)
    assert not torch.equal(one, sketch([vectors[0]], 32, (8, 1)))
    torch.testing.assert_close(
        sketch([vectors[0][:10], vectors[1][:22]], 32, (7, 1))[10:], vectors[1][:22]
    )


def test_projection_goes_through_the_whole_pipeline() -> None:
    groups, model = random_groups(6, 4), small_model(tied=False)
    cells = 400
    exact, rough = (
        measure(Policy(model), groups, temperature=TAU, projection=k).pairs["true/all"]
        for k in (None, cells)
    )
    errors = (rough - exact) / sketch_error(exact.to_numpy(), cells)
    assert 0.1 < np.sqrt(np.mean(errors[exact.abs() < 0.999] ** 2)) < 1.3
    measured = measure(Policy(model), groups, temperature=TAU, projection=cells)
    stated = summarise(measured, projection=cells, resamples=50, seed=0)["projection"]
    assert stated["cells"] == cells
    assert stated["standard_error"] <= 1 / np.sqrt(cells)
    assert 0 < stated["reliability"] <= 1


def test_cosines_of_zero_and_parallel_vectors() -> None:
    rows = [torch.tensor(v, dtype=torch.float32) for v in ([3.0, 4], [6, 8], [-4, 3], [0, 0])]
    expected = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(gram_cosines(gram_matrix(rows)), expected, atol=1e-12)


def test_what_cannot_be_computed_is_refused() -> None:
    model = Shifted()
    blocks = parameter_blocks(model)
    with pytest.raises(ValueError, match="no token"):
        group_grams(Policy(model), Sequences([[1]], [[]]), blocks, temperature=1.0)
    with pytest.raises(ValueError, match=r"layer\.9.*final norm, embedding, head"):
        parameter_blocks(model, ["layer.9"])
    with pytest.raises(ValueError, match="projection"):
        group_grams(Policy(model), Sequences([[1]], [[2]]), blocks, temperature=1.0, projection=0)
    with torch.no_grad():
        model.norm_bias[0] = float("nan")
    with pytest.raises(ValueError, match="response 0 is not finite"):
        group_grams(Policy(model), Sequences([[1]], [[2]]), blocks, temperature=1.0)


def test_frozen_parameters_are_left_out_and_chosen_blocks_keep_the_order_of_the_model() -> None:
    model = small_model(tied=False)
    assert list(parameter_blocks(model, ["head", "embedding"])) == ["embedding", "head"]
    model.model.layers[0].requires_grad_(False)
    assert "layer.0" not in parameter_blocks(model)


def test_predictors_by_hand() -> None:
    found = jaccard([[[1, 2, 3], [1, 2], [], []]])[0]
    # {1}, {2}, {3}, {12}, {23}, {123} against {1}, {2}, {12}
    assert found[0, 1] == found[1, 0] == pytest.approx(3 / 6)
    assert found[0, 2] == 0
    assert found[2, 3] == found[0, 0] == 1
    gap = absolute_gap(torch.tensor([[1.0, 1.5, 0.0]]))[0]
    assert gap.tolist() == [[0, -0.5, -1], [-0.5, 0, -1.5], [-1, -1.5, 0]]


def test_mean_hidden_state_is_over_the_positions_that_predict_the_response() -> None:
    model, groups = small_model(tied=False), random_groups(2, 3)
    sequences = groups.rollouts.sequences
    found = mean_hidden(Policy(model), sequences, token_budget=12)
    for n, (prompt, response) in enumerate(
        zip(sequences.prompts, sequences.responses, strict=True)
    ):
        with torch.no_grad():
            hidden = model.model(torch.tensor([prompt + response])).last_hidden_state[0]
        expected = hidden[len(prompt) - 1 : len(prompt) + len(response) - 1].mean(0)
        torch.testing.assert_close(found[n].double(), expected, rtol=1e-5, atol=1e-5)


def test_tables_of_pairs_and_responses_by_hand() -> None:
    groups = random_groups(2, 2)
    groups.verdicts = [
        [Verdict(c, None, "test") for c in row] for row in ([True, True], [True, False])
    ]
    groups.rollouts.completions[1][1] = groups.rollouts.completions[1][0]
    similarity = {"phi": torch.tensor([[[1.0, 0.5], [0.5, 1]], [[1, -1], [-1, 1]]])}
    grams = {"all": np.array([[[4.0, 3], [3, 9]], [[1, 1], [1, 1]]])}
    pairs = pair_table(groups, similarity, grams)
    expected = pd.DataFrame(
        {
            "problem": ["p0", "p1"],
            "first": [0, 0],
            "second": [1, 1],
            "pair": ["correct-correct", "correct-wrong"],
            "identical": [False, True],
            "phi": [0.5, -1.0],
            "true/all": [0.5, 1.0],
        }
    )
    pd.testing.assert_frame_equal(pairs, expected, check_dtype=False)
    rows = response_table(groups, similarity["phi"], torch.arange(4.0), grams)
    assert rows["norm/all"].tolist() == [2, 3, 1, 1]
    # a group of two: the other has weight 1, nu = 1 - S^2
    assert rows["nu_phi"].tolist() == [0.75, 0.75, 0, 0]
    assert rows["nu_true"].tolist() == pytest.approx([0.75, 0.75, 0, 0])
    assert rows["entropy"].tolist() == [0, 1, 2, 3]


def test_groups_of_the_tiny_policy_are_sampled_and_graded_reproducibly(tiny: LoadedModel) -> None:
    benchmark = countdown_benchmark(problems=4)
    policy = Policy(copy.deepcopy(tiny.model))
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids)

    def draw(problems: int, responses: int = 3) -> GradedGroups:
        return sample_groups(
            benchmark,
            engine,
            Grader(benchmark.verifier),
            tiny.tokenizer,
            problems=problems,
            responses=responses,
            params=SamplingParams(max_tokens=20),
            chat=True,
            seed=1,
        )

    two, three = draw(2), draw(3)
    assert two.rollouts.completions == three.rollouts.completions[:2]
    assert two.correct_PG.shape == (2, 3)
    assert two.correct_PG.tolist() == [[v.correct for v in row] for row in two.verdicts]
    with pytest.raises(ValueError, match="countdown has 4"):
        draw(5)
    with pytest.raises(ValueError, match="at least 2"):
        draw(2, responses=1)
