"""Inner products of the responses' true gradients within a group, in total and by block.

The true gradient of response i is that of its mean token log-probability over all parameters theta,

    g_i = grad_theta  (1/T_i) sum_t log p_theta(y_t | prefix),      p = softmax(z / tau).

Blocks are the embedding, every transformer layer, the final norm and the head; the Gram matrix of
all parameters is the sum of those of the blocks. A cosine does not change when a vector is scaled,
so the sum of token log-probabilities, or a gradient divided by tau, gives the same cosines.

Large models keep a sketch of each gradient instead of the gradient (CountSketch, Charikar et al.
2002; as a projection Weinberger et al. 2009): entry j of a block goes with a random sign s_j into a
random one of K cells. Inner products stay unbiased. For unit vectors x, y with cosine c the
estimated cosine is off, to first order, by the sum over j != k of A_jk s_j s_k [same cell] with A =
(xy' + yx')/2 - (c/2)(xx' + yy'), hence

    standard error  <=  sqrt(2/K) |A|_F  =  (1 - c^2) / sqrt(K),

also for the sum over blocks: their sketches are independent, and their parts of |A|_F^2 add up to
at most the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from g2rl.analysis.fidelity.names import TOTAL
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.policy import Policy
from g2rl.policy.weights import decoder_blocks

GRAM_COLUMNS = 1 << 20  # entries widened to float64 at a time


def parameter_blocks(
    model: Any, chosen: Sequence[str] | None = None
) -> dict[str, list[nn.Parameter]]:
    """Parameters by block, in the model's own order: embedding, layer.0, ..., final norm, head.

    With a tied head one block named "embedding + head" holds the shared matrix. Parameters that are
    none of these make a block "other"; frozen ones are left out.

    Args:
        model: a Hugging Face causal LM.
        chosen: names of the blocks to keep; None keeps all.

    Raises:
        ValueError: a chosen block does not exist (the names are listed).
    """
    # the embedding, the layers and the head are known by their parameters
    block_of = _known_blocks(model)
    blocks: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        block = block_of.get(id(parameter))

        # what is left over is known by its name only
        if block is None:
            block = "final norm" if "norm" in name or "ln_f" in name else "other"
        blocks.setdefault(block, []).append(parameter)

    # keep the blocks asked for, in the order of the model
    if chosen is None:
        return blocks
    unknown = [name for name in chosen if name not in blocks]
    if unknown or not chosen:
        raise ValueError(f"blocks={list(chosen)}: the model has {', '.join(blocks)}")
    return {name: blocks[name] for name in blocks if name in chosen}


def _known_blocks(model: Any) -> dict[int, str]:
    """Block of each parameter of the embedding, the head and the layers, by the parameter's id."""
    # a tied head shares its matrix with the embedding
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embedding.weight is head.weight

    # later assignments win: a tied matrix belongs to the embedding's block
    block_of: dict[int, str] = {}
    for number, layer in enumerate(decoder_blocks(model) or ()):
        block_of |= dict.fromkeys(map(id, layer.parameters()), f"layer.{number}")
    block_of |= dict.fromkeys(map(id, head.parameters()), "head")
    embedding_name = "embedding + head" if tied else "embedding"
    block_of |= dict.fromkeys(map(id, embedding.parameters()), embedding_name)
    return block_of


def response_gradient(
    policy: Policy,
    prompt: list[int],
    response: list[int],
    parameters: Sequence[Tensor],
    temperature: float,
) -> list[Tensor]:
    """Gradient of the mean token log-probability of one response, one tensor a parameter.

    A parameter that does not enter the log-probabilities has gradient 0.

    Raises:
        ValueError: for a response without tokens, whose mean does not exist.
    """
    if not response:
        raise ValueError("a response has no token, so its mean log-probability has no gradient")

    # a batch of one: gradients of several responses would be summed
    batch = make_micro_batch(Sequences([prompt], [response]), [0], policy.device)
    with torch.enable_grad():
        mean_logp = policy(batch, temperature).logps_T.mean()
        gradients = torch.autograd.grad(mean_logp, parameters, allow_unused=True)

    # parameters that do not enter have no gradient, which is gradient 0
    filled = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        filled.append(torch.zeros_like(parameter) if gradient is None else gradient.detach())
    return filled


def sketch(gradients: Sequence[Tensor], cells: int, seed: Sequence[int]) -> Tensor:
    """CountSketch of the tensors taken as one long vector.

    The same seed and shapes give the same projection. Of no more than `cells` entries the vector
    itself is returned: a projection would only lose.

    Returns:
        (cells,) float32 or wider, on the device of the gradients.
    """
    # nothing to gain from a projection
    if sum(gradient.numel() for gradient in gradients) <= cells:
        return torch.cat([gradient.flatten() for gradient in gradients])

    # 63 bits of seed for torch's generator
    words = np.random.SeedSequence(tuple(seed)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))

    # sums of many entries, so at least float32
    dtype = torch.promote_types(gradients[0].dtype, torch.float32)
    sums_K = gradients[0].new_zeros(cells, dtype=dtype)
    for gradient in gradients:
        # one draw gives the cell (all bits but the lowest) and the sign (the lowest)
        draw = torch.randint(2 * cells, (gradient.numel(),), generator=generator)
        draw = draw.to(gradient.device)
        sign = (draw & 1) * 2 - 1
        sums_K.index_add_(0, draw >> 1, gradient.flatten().to(dtype) * sign)
    return sums_K


def sketch_error(cosine: np.ndarray, cells: int) -> np.ndarray:
    """Upper bound of the standard error of a sketched cosine, (1 - c^2) / sqrt(cells).

    It is derived in this file's docstring.
    """
    return (1 - np.square(cosine)) / math.sqrt(cells)


def gram_matrix(rows: Sequence[Tensor]) -> np.ndarray:
    """Inner products (G, G) of flat vectors, accumulated in float64 a slice at a time."""
    # a slice at a time: float64 copies of whole gradients would not fit
    total_GG = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows[0].numel(), GRAM_COLUMNS):
        slice_GK = torch.stack([row[start : start + GRAM_COLUMNS] for row in rows]).double()
        total_GG += (slice_GK @ slice_GK.T).cpu()
    return total_GG.numpy()


def group_grams(
    policy: Policy,
    sequences: Sequences,
    blocks: dict[str, list[nn.Parameter]],
    *,
    temperature: float,
    projection: int | None = None,
    seed: Sequence[int] = (0,),
) -> dict[str, np.ndarray]:
    """Inner products of the true gradients of one group's responses, by block and of all blocks.

    Args:
        policy: put into evaluation mode for the duration.
        sequences: the G prompt-response pairs of the group.
        blocks: see `parameter_blocks`.
        temperature: tau of the log-probabilities.
        projection: cells K of the sketch of each block; None keeps whole gradients (G of them at
            once).
        seed: of the sketch; groups should have different ones, so that their errors are
            independent.

    Returns:
        Block name, or "all", to (G, G) float64.

    Raises:
        ValueError: an empty response, a gradient that is not finite, or projection < 1.
    """
    if projection is not None and projection < 1:
        raise ValueError(f"projection must be null or >= 1, got {projection}")

    # the parameters of all blocks in one list, so that one backward pass serves all
    parameters = [parameter for members in blocks.values() for parameter in members]
    pairs = zip(sequences.prompts, sequences.responses, strict=True)
    vectors: dict[str, list[Tensor]] = {name: [] for name in blocks}

    # one backward pass a response, kept as one flat vector a block
    was_training = policy.training
    policy.eval()
    try:
        for number, (prompt, response) in enumerate(pairs):
            gradients = response_gradient(policy, prompt, response, parameters, temperature)
            flat = _flat_by_block(gradients, blocks, projection, seed)
            for name, vector in flat.items():
                if not bool(torch.isfinite(vector).all()):
                    raise ValueError(f"the gradient of response {number} is not finite in {name}")
                vectors[name].append(vector)
    finally:
        policy.train(was_training)

    # the inner products of all parameters are the sum of those of the blocks
    grams = {name: gram_matrix(rows) for name, rows in vectors.items()}
    return {TOTAL: np.sum(list(grams.values()), axis=0), **grams}


def _flat_by_block(
    gradients: Sequence[Tensor],
    blocks: dict[str, list[nn.Parameter]],
    projection: int | None,
    seed: Sequence[int],
) -> dict[str, Tensor]:
    """One response's gradient, a tensor a parameter, as one vector a block; sketched if asked."""
    # the list is cut into blocks in the order in which it was put together
    remaining = iter(gradients)
    flat: dict[str, Tensor] = {}
    for place, (name, members) in enumerate(blocks.items()):
        of_block = [next(remaining) for _ in members]
        if projection is None:
            flat[name] = torch.cat([gradient.flatten() for gradient in of_block])
        else:
            flat[name] = sketch(of_block, projection, (*seed, place))
    return flat


def gram_cosines(gram_GG: np.ndarray) -> np.ndarray:
    """Cosines (G, G) from inner products, in [-1, 1]; those of a zero vector are all 0, its own
    included."""
    # a response whose gradient is zero has no direction
    norm_G = np.sqrt(np.diag(gram_GG))
    scale_GG = np.outer(norm_G, norm_G)
    cosine_GG = np.divide(gram_GG, scale_GG, out=np.zeros_like(gram_GG), where=scale_GG > 0)
    return np.clip(cosine_GG, -1.0, 1.0)
