"""The tiled head against the full (T, V) log-softmax in float64, and Phi against the literal
sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from g2rl.policy.lm_head import FeatureRequest, head, head_pass, residuals, tiles
from g2rl.policy.lm_head.tiles import MIN_SLICE, tile_columns, tile_rows

T, V, D = 11, 17, 5
SEGMENTS = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3, 3, 5])  # responses 2, 4 and 6 are empty
COUNT = 7
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def narrow_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even a vocabulary of 17 be cut into chunks and slices."""
    monkeypatch.setattr(tiles, "MIN_SLICE", 3)
    monkeypatch.setattr(tiles, "CHUNK", 5)


def tile_bytes(rows: int, vocabulary: int = V, dtype: torch.dtype = torch.float64) -> int:
    """A memory limit under which a tile has exactly `rows` rows."""
    wide = 8 if dtype == torch.float64 else 4
    limit = rows * (vocabulary + min(vocabulary, tiles.CHUNK)) * wide
    assert tile_rows(vocabulary, limit, dtype, CPU) == rows
    return limit


def inputs(
    dtype: torch.dtype = torch.float64, seed: int = 0, grad: bool = False
) -> tuple[Tensor, ...]:
    """Random hidden (T, D), weight (V, D), bias (V,) and targets (T,)."""
    rng = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_(grad)
        for shape in ((T, D), (V, D), (V,))
    )
    return hidden, weight, bias, torch.randint(V, (T,), generator=rng)


def full(
    hidden: Tensor, weight: Tensor, targets: Tensor, tau: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """log p_t(y_t) and H_t = -sum_v p log p from all logits at once."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logp = torch.log_softmax(logits / tau, -1)
    return logp[torch.arange(len(targets)), targets], -(logp.exp() * logp).sum(-1)


def literal_phi(
    hidden: Tensor, weight: Tensor, target: int, tau: float, bias: Tensor | None
) -> Tensor:
    """phi_t = W[y_t] - sum_v p_t(v) W[v], one token, a loop over the vocabulary."""
    scores = [
        float(weight[v] @ hidden + (0 if bias is None else bias[v])) / tau
        for v in range(len(weight))
    ]
    p = torch.tensor(scores, dtype=torch.float64).softmax(0)
    phi = weight[target].clone()
    for v in range(len(weight)):
        phi = phi - p[v] * weight[v]
    return phi


def literal_feature(
    hidden: Tensor, weight: Tensor, targets: Tensor, tau: float, bias: Tensor | None, alpha: Tensor
) -> Tensor:
    """Phi = sum_t alpha_t phi_t / sum_t alpha_t of each response, 0 where there is none."""
    rows = []
    for n in range(COUNT):
        tokens = [t for t in range(T) if int(SEGMENTS[t]) == n]
        total = sum(float(alpha[t]) for t in tokens)
        phi = [
            alpha[t] * literal_phi(hidden[t], weight, int(targets[t]), tau, bias) for t in tokens
        ]
        rows.append(sum(phi) / total if total else torch.zeros(D, dtype=torch.float64))
    return torch.stack(rows)


def test_tile_rows_counts_tile_and_chunk_and_never_less_than_one_row() -> None:
    assert tile_rows(100, (100 + 5) * 4 * 3, torch.float32, CPU) == 3
    assert tile_rows(100, (100 + 5) * 4 * 3 - 1, torch.bfloat16, CPU) == 2  # computed in float32
    assert tile_rows(100, 1, torch.float32, CPU) == 1


def test_a_tile_of_many_rows_has_a_multiple_of_sixteen() -> None:
    for fitting, rows in [(15, 15), (16, 16), (31, 16), (32, 32), (110, 96), (5000, 1024)]:
        assert tile_rows(100, (100 + 5) * 4 * fitting, torch.float32, CPU) == rows


def test_matrices_are_cut_into_whole_blocks_and_the_rest() -> None:
    """A product over blocks cannot show whether there were any; two blocks are the least."""
    matrix = torch.arange(2.0 * (3 * residuals.BLOCK_WORDS + 7)).view(2, -1)
    blocks, rest = residuals._blocks(matrix)
    assert blocks is not None
    assert torch.equal(torch.cat([*blocks, matrix[:, rest]], 1), matrix)
    assert blocks.shape == (3, 2, residuals.BLOCK_WORDS)
    assert residuals._blocks(matrix[:, : 2 * residuals.BLOCK_WORDS - 1])[0] is None


def test_tile_columns_counts_two_buffers_and_never_less_than_the_least_slice() -> None:
    assert tile_columns(10, 10 * 4 * 2 * 5, torch.float32) == 5
    assert tile_columns(10, 10 * 8 * 2 * 5, torch.float64) == 5
    assert tile_columns(10, 1, torch.float32) == 3
    assert tile_columns(0, 80, torch.float32) == 10  # no token


@pytest.mark.parametrize("columns", [3, 4, 5, 16, 17, 40])
def test_the_backward_is_the_same_for_every_slice(columns: int) -> None:
    """Against one slice; targets lie on the edges of slices."""
    torch.manual_seed(1)
    hidden = torch.randn(9, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 2, 3, 4, 5, 16, 16, 15, 0])

    def gradients(bytes_: int) -> tuple[torch.Tensor, ...]:
        output = head_pass(hidden, weight, targets, temperature=0.7, bias_V=bias, tile_bytes=bytes_)
        loss = (output.logps_T * torch.arange(9)).sum() + output.entropy_T.square().sum()
        return torch.autograd.grad(loss, (hidden, weight, bias))

    for found, expected in zip(gradients(9 * 8 * 2 * columns), gradients(1 << 20), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("tau", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("rows", [1, 3, T, 64])
def test_logps_and_entropies_equal_the_full_log_softmax(
    rows: int, tau: float, with_bias: bool
) -> None:
    hidden, weight, bias, targets = inputs()
    bias_V = bias if with_bias else None
    output = head_pass(
        hidden, weight, targets, temperature=tau, bias_V=bias_V, tile_bytes=tile_bytes(rows)
    )
    logps, entropies = full(hidden, weight, targets, tau, bias_V)
    torch.testing.assert_close(output.logps_T, logps, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.entropy_T, entropies, rtol=1e-12, atol=1e-12)
    assert output.features_ND is None


def test_huge_logits_stay_finite_and_right() -> None:
    hidden, weight, _bias, targets = inputs()
    output = head_pass(hidden.float() * 1e4, weight.float(), targets, temperature=0.5)
    logps, entropies = full(
        (hidden.float() * 1e4).double(), weight.float().double(), targets, 0.5, None
    )
    torch.testing.assert_close(output.logps_T.double(), logps, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(output.entropy_T.double(), entropies, rtol=1e-3, atol=1e-3)


LOSSES = {
    "logps": lambda logps, entropies: (logps * torch.linspace(-1, 2, T)).sum(),
    "entropies": lambda logps, entropies: (entropies * torch.linspace(-1, 2, T)).sum(),
    "both": lambda logps, entropies: (
        (logps * entropies).sin() + logps.exp() - entropies.square()
    ).sum(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tau", [0.7, 1.0])
@pytest.mark.parametrize("rows", [1, 4, 64])
def test_gradients_equal_autograd_of_the_full_logits(rows: int, tau: float, loss: str) -> None:
    """d loss / d (hidden, weight, bias) of any function of log-probs and entropies."""
    hidden, weight, bias, targets = inputs(grad=True)
    output = head_pass(
        hidden, weight, targets, temperature=tau, bias_V=bias, tile_bytes=tile_bytes(rows)
    )
    found = torch.autograd.grad(
        LOSSES[loss](output.logps_T, output.entropy_T), (hidden, weight, bias)
    )
    expected = torch.autograd.grad(
        LOSSES[loss](*full(hidden, weight, targets, tau, bias)), (hidden, weight, bias)
    )
    for mine, oracle in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-11)


def test_gradcheck_by_finite_differences() -> None:
    hidden, weight, bias, targets = inputs(grad=True)

    def both(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        output = head_pass(h, w, targets, temperature=0.8, bias_V=b, tile_bytes=tile_bytes(3))
        return output.logps_T, output.entropy_T

    assert torch.autograd.gradcheck(both, (hidden, weight, bias))


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_input_gets_no_gradient_and_the_other_the_right_one(frozen: str) -> None:
    hidden, weight, _bias, targets = inputs(grad=True)
    kept = hidden if frozen == "weight" else weight
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    (found,) = torch.autograd.grad(head_pass(hidden, weight, targets).logps_T.sum(), (kept,))
    (expected,) = torch.autograd.grad(full(hidden, weight, targets, 1.0, None)[0].sum(), (kept,))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("tau", [0.6, 1.0, 1.5])
def test_phi_is_tau_times_the_gradient_of_the_log_probability(tau: float) -> None:
    """phi_t = tau * d log p(y_t) / d h_t, with one token a response so that Phi = phi_t."""
    hidden, weight, bias, targets = inputs()
    request = FeatureRequest(torch.arange(T), T, tau)
    found = head_pass(
        hidden, weight, targets, temperature=tau, bias_V=bias, features=request
    ).features_ND
    leaf = hidden.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(full(leaf, weight, targets, tau, bias)[0].sum(), (leaf,))
    torch.testing.assert_close(found, tau * gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("feature_tau", [1.0, 0.6, 1.6])
@pytest.mark.parametrize("rows", [1, 2, 4, 64])
@pytest.mark.parametrize("block_words", [4, 5, V])
def test_features_by_identity_equal_the_literal_token_sum(
    block_words: int, rows: int, feature_tau: float, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phi = W^T c, c = sum a_t (e(y_t) - p_t) / sum a_t, against sum a_t phi_t / sum a_t; sampled
    at 1. The vocabulary is one block, or some with words left over."""
    monkeypatch.setattr(residuals, "BLOCK_WORDS", block_words)
    hidden, weight, bias, targets = inputs(seed=1)
    alpha = torch.linspace(0.2, 3, T, dtype=torch.float64) if weighted else None
    request = FeatureRequest(SEGMENTS, COUNT, feature_tau, alpha)
    output = head_pass(
        hidden, weight, targets, bias_V=bias, features=request, tile_bytes=tile_bytes(rows)
    )
    ones = torch.ones(T, dtype=torch.float64)
    expected = literal_feature(
        hidden, weight, targets, feature_tau, bias, ones if alpha is None else alpha
    )
    torch.testing.assert_close(output.features_ND, expected, rtol=1e-10, atol=1e-12)
    assert (output.features_ND[[2, 4, 6]] == 0).all()
    logps, _ = full(hidden, weight, targets, 1.0, bias)
    torch.testing.assert_close(
        output.logps_T, logps
    )  # the feature temperature must not leak into log-probs


def test_zero_weights_mask_tokens_and_whole_responses() -> None:
    """alpha_t = 0 drops a token; a response whose alphas are all 0 has Phi = 0."""
    hidden, weight, bias, targets = inputs(seed=2)
    alpha = torch.ones(T, dtype=torch.float64)
    alpha[[1, 3, 4]] = 0
    request = FeatureRequest(SEGMENTS, COUNT, 0.9, alpha)
    output = head_pass(hidden, weight, targets, temperature=0.9, bias_V=bias, features=request)
    expected = literal_feature(hidden, weight, targets, 0.9, bias, alpha)
    torch.testing.assert_close(output.features_ND, expected, rtol=1e-10, atol=1e-12)
    assert (output.features_ND[1] == 0).all()


def test_no_token_at_all() -> None:
    _, weight, _, _ = inputs()
    none = torch.empty(0, dtype=torch.int64)
    hidden = torch.empty(0, D, dtype=torch.float64, requires_grad=True)
    output = head_pass(hidden, weight, none, features=FeatureRequest(none, 2, 1.0))
    assert output.logps_T.shape == output.entropy_T.shape == (0,)
    assert torch.equal(output.features_ND, torch.zeros(2, D, dtype=torch.float64))
    output.logps_T.sum().backward()


def test_features_do_not_change_the_gradient_and_carry_none() -> None:
    hidden, weight, _bias, targets = inputs(grad=True)
    request = FeatureRequest(SEGMENTS, COUNT, 1.0)
    output = head_pass(hidden, weight, targets, features=request)
    assert not output.features_ND.requires_grad
    found = torch.autograd.grad(output.logps_T.sum(), (hidden, weight))
    expected = torch.autograd.grad(
        full(hidden, weight, targets, 1.0, None)[0].sum(), (hidden, weight)
    )
    for mine, oracle in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_one_optimizer_step_equals_that_of_the_full_logits(optimizer: Any) -> None:
    def after_step(tiled: bool) -> list[Tensor]:
        hidden, weight, bias, targets = inputs(grad=True)
        leaves = [hidden, weight, bias]
        if tiled:
            output = head_pass(
                hidden, weight, targets, temperature=0.8, bias_V=bias, tile_bytes=tile_bytes(2)
            )
            logps, entropies = output.logps_T, output.entropy_T
        else:
            logps, entropies = full(hidden, weight, targets, 0.8, bias)
        step = optimizer(leaves, lr=0.1)
        LOSSES["both"](logps, entropies).backward()
        step.step()
        return leaves

    for mine, oracle in zip(after_step(True), after_step(False), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-8, atol=1e-9)


def test_bfloat16_inputs_within_their_rounding() -> None:
    hidden, weight, bias, targets = inputs(torch.bfloat16, grad=True)
    request = FeatureRequest(SEGMENTS, COUNT, 1.0)
    output = head_pass(
        hidden, weight, targets, bias_V=bias, features=request, tile_bytes=tile_bytes(3) // 2
    )
    wide = [x.detach().double().requires_grad_(True) for x in (hidden, weight, bias)]
    logps, entropies = full(wide[0], wide[1], targets, 1.0, wide[2])
    assert (
        output.logps_T.dtype == output.entropy_T.dtype == output.features_ND.dtype == torch.float32
    )
    torch.testing.assert_close(output.logps_T.double(), logps, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(output.entropy_T.double(), entropies, rtol=2e-2, atol=2e-2)
    expected = literal_feature(
        *(x.detach() for x in wide[:2]), targets, 1.0, wide[2].detach(), torch.ones(T)
    )
    torch.testing.assert_close(output.features_ND.double(), expected, rtol=2e-2, atol=2e-2)
    found = torch.autograd.grad(
        LOSSES["both"](output.logps_T, output.entropy_T), (hidden, weight, bias)
    )
    oracle = torch.autograd.grad(LOSSES["both"](logps, entropies), wide)
    for mine, theirs in zip(found, oracle, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), theirs, rtol=5e-2, atol=1e-1)


@pytest.mark.parametrize("cap", [None, 30.0])
def test_logits_of_bfloat16_inputs_are_not_rounded(
    cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 of the same inputs, with logits as large as a trained model's.

    Rounded to bfloat16, logits of 30 would be off by 0.06.
    """
    monkeypatch.setattr(tiles, "WIDENED_WORDS", 100)
    rng = torch.Generator().manual_seed(0)
    hidden = (torch.randn(40, 64, generator=rng) * 1.5).bfloat16()
    weight = torch.randn(310, 64, generator=rng).bfloat16()
    targets = torch.randint(310, (40,), generator=rng)

    logits = hidden.double() @ weight.double().T
    assert logits.abs().max() > 30
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    log_p = logits.log_softmax(-1)
    output = head_pass(hidden, weight, targets, cap=cap)
    expected = log_p.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(output.logps_T.double(), expected, rtol=0, atol=1e-4)
    entropies = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(output.entropy_T.double(), entropies, rtol=0, atol=1e-4)


class LargestOutput(TorchDispatchMode):
    """Records the largest number of elements any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_exceeds_the_tile_the_head_or_the_residuals(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max(rows*V, V*D, N*V, T*slice) bounds every result in forward and backward; T*V is 40 times
    larger."""
    monkeypatch.setattr(tiles, "CHUNK", 4096)
    tokens, vocabulary, width, count, rows = 400, 20_480, 8, 3, 4
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    request = FeatureRequest(torch.arange(tokens) * count // tokens, count, 0.7, torch.ones(tokens))
    limit = max(rows * vocabulary, vocabulary * width, count * vocabulary, tokens * MIN_SLICE)
    with LargestOutput() as tiled:
        output = head_pass(
            hidden,
            weight,
            targets,
            temperature=0.9,
            features=request,
            tile_bytes=tile_bytes(rows, vocabulary, dtype),
        )
        (output.logps_T.sum() + output.entropy_T.square().sum()).backward()
    assert tokens * vocabulary >= 40 * limit
    assert 0 < tiled.largest <= limit
    with (
        LargestOutput() as untiled
    ):  # the recorder does see a full (T, V) matrix, in the backward too
        logps, _ = full(hidden, weight, targets, 0.9, None)
    assert untiled.largest == tokens * vocabulary
    with LargestOutput() as untiled_backward:
        logps.sum().backward()
    assert untiled_backward.largest == tokens * vocabulary


# ---- a loss differentiated in the forward


@pytest.fixture
def fusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even a vocabulary of 17 be fused."""
    monkeypatch.setattr(head, "FUSE_FROM", 0)
    monkeypatch.setattr(head, "FUSE_ROWS", 0)


COEFFICIENTS = torch.linspace(-1, 2, T, dtype=torch.float64)
OBJECTIVES = {  # sums over tokens of a function of one log-probability and one entropy
    "logps": lambda tile, logps, entropies: (COEFFICIENTS[tile] * logps.exp()).sum(),
    "entropies": lambda tile, logps, entropies: (COEFFICIENTS[tile] * entropies.sin()).sum(),
    "both": lambda tile, logps, entropies: (
        COEFFICIENTS[tile] * logps * entropies + entropies.square()
    ).sum(),
}
ALL = slice(0, T)


@pytest.mark.usefixtures("fusing")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tau", [0.7, 1.0])
@pytest.mark.parametrize("rows", [1, 4, 64])
def test_a_fused_loss_has_the_gradient_of_the_full_logits(
    rows: int, tau: float, objective: str
) -> None:
    hidden, weight, bias, targets = leaves = inputs(grad=True)
    loss = OBJECTIVES[objective]
    output = head_pass(
        hidden,
        weight,
        targets,
        temperature=tau,
        bias_V=bias,
        objective=loss,
        tile_bytes=tile_bytes(rows),
    )
    logps, entropies = full(hidden, weight, targets, tau, bias)
    torch.testing.assert_close(output.loss, loss(ALL, logps, entropies), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.logps_T, logps, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.entropy_T, entropies, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(output.loss * 3, leaves[:3])
    expected = torch.autograd.grad(3 * loss(ALL, logps, entropies), leaves[:3])
    for mine, oracle in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("fusing")
def test_words_of_no_probability_have_a_finite_gradient() -> None:
    """exp underflows to 0, whose logarithm is not a number times 0."""
    hidden, weight, _bias, targets = inputs(torch.float32, grad=True)
    big = (hidden * 300).detach().requires_grad_(True)
    output = head_pass(
        big, weight, targets, objective=lambda tile, logps, entropies: entropies.sum()
    )
    wide = [x.detach().double().requires_grad_(True) for x in (big, weight)]
    _, entropies = full(wide[0], wide[1], targets, 1.0, None)
    assert (torch.softmax(big @ weight.T, -1) == 0).any()
    found = torch.autograd.grad(output.loss, (big, weight))
    for mine, oracle in zip(found, torch.autograd.grad(entropies.sum(), wide), strict=True):
        torch.testing.assert_close(mine.double(), oracle, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("fusing")
@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_fused_loss_skips_what_is_frozen(frozen: str) -> None:
    hidden, weight, _bias, targets = inputs(grad=True)
    kept = hidden if frozen == "weight" else weight
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    loss = head_pass(hidden, weight, targets, objective=OBJECTIVES["logps"]).loss
    (found,) = torch.autograd.grad(loss, (kept,), retain_graph=True)
    logps, entropies = full(hidden, weight, targets, 1.0, None)
    (expected,) = torch.autograd.grad(OBJECTIVES["logps"](ALL, logps, entropies), (kept,))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()


def test_what_is_not_fused_leaves_the_loss_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small vocabulary, low tiles, sums in bfloat16, no gradient: log-probs are as without an
    objective."""

    def never(tile: slice, logps: Tensor, entropies: Tensor) -> Tensor:
        raise AssertionError("called")

    hidden, weight, _bias, targets = inputs(grad=True)
    assert head_pass(hidden, weight, targets, objective=never).loss is None
    monkeypatch.setattr(head, "FUSE_FROM", 0)
    assert (
        head_pass(hidden, weight, targets, objective=never, tile_bytes=tile_bytes(T - 1)).loss
        is None
    )
    assert head_pass(hidden.bfloat16(), weight.bfloat16(), targets, objective=never).loss is None
    with torch.no_grad():
        assert head_pass(hidden, weight, targets, objective=never).loss is None
    with pytest.raises(AssertionError, match="called"):
        head_pass(hidden, weight, targets, objective=never)
    with pytest.raises(ValueError, match="one of them"):
        head_pass(
            hidden, weight, targets, objective=never, features=FeatureRequest(SEGMENTS, COUNT, 1.0)
        )


def test_a_fused_loss_keeps_no_more_than_a_tile_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "CHUNK", 4096)
    monkeypatch.setattr(head, "FUSE_ROWS", 0)
    tokens, vocabulary, width, rows = 400, 20_480, 8, 4
    hidden, weight = (torch.randn(n, width, requires_grad=True) for n in (tokens, vocabulary))
    with LargestOutput() as fused:
        output = head_pass(
            hidden,
            weight,
            torch.randint(vocabulary, (tokens,)),
            objective=lambda tile, logps, entropies: (logps + entropies.square()).sum(),
            tile_bytes=tile_bytes(rows, vocabulary, torch.float32),
        )
        output.loss.backward()
    assert (
        0 < fused.largest <= max(rows * vocabulary, vocabulary * width) < tokens * vocabulary / 40
    )


@pytest.mark.parametrize(("tau", "feature_tau"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_a_temperature_must_be_positive(tau: float, feature_tau: float) -> None:
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match="temperature"):
        head_pass(
            hidden,
            weight,
            targets,
            temperature=tau,
            features=FeatureRequest(SEGMENTS, COUNT, feature_tau),
        )


CAP = 2.5


def capped(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Soft-capped logits, all at once."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    return CAP * torch.tanh(logits / CAP)


@pytest.mark.parametrize("rows", [1, 4, T])
@pytest.mark.parametrize("tau", [0.7, 1.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_soft_cap_against_autograd(rows: int, tau: float, with_bias: bool) -> None:
    """Log-probs, entropies, their gradients and Phi, each against the whole (T, V) matrix."""
    hidden, weight, bias_V, targets = inputs(grad=True)
    bias = bias_V if with_bias else None
    request = FeatureRequest(SEGMENTS, COUNT, 0.9, torch.linspace(0.5, 2, T, dtype=torch.float64))
    found = head_pass(
        hidden, weight, targets, temperature=tau, bias_V=bias, features=request, cap=CAP,
        tile_bytes=tile_bytes(rows) + COUNT * V * 8,
    )  # fmt: skip

    logp = (capped(hidden, weight, bias) / tau).log_softmax(-1)
    expected = logp[torch.arange(T), targets]
    entropy = -(logp.exp() * logp).sum(-1)
    torch.testing.assert_close(found.logps_T, expected)
    torch.testing.assert_close(found.entropy_T, entropy)

    # a loss of both, by either way
    slopes = torch.linspace(-1, 1, T, dtype=torch.float64)
    leaves = [hidden, weight] + ([bias] if bias is not None else [])
    ours = torch.autograd.grad((slopes * found.logps_T + found.entropy_T).sum(), leaves)
    theirs = torch.autograd.grad((slopes * expected + entropy).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)

    # Phi is tau' times the gradient of the weighted mean log-prob at tau', down to hidden states
    hot = (capped(hidden, weight, bias) / 0.9).log_softmax(-1)[torch.arange(T), targets]
    [slope_TD] = torch.autograd.grad((request.weights_T * hot).sum() * 0.9, [hidden])
    assert found.features_ND is not None
    for n in range(COUNT):
        rows_of = n == SEGMENTS
        total = request.weights_T[rows_of].sum().clamp_min(1e-300)
        torch.testing.assert_close(found.features_ND[n], slope_TD[rows_of].sum(0) / total)


def test_a_soft_cap_is_not_fused() -> None:
    """An objective is not called under a cap, so that the caller takes the other way."""
    hidden, weight, _, targets = inputs(torch.float32, grad=True)
    calls: list[int] = []
    found = head_pass(hidden, weight, targets, objective=lambda *_: calls.append(1), cap=CAP)
    assert found.loss is None
    assert not calls
