"""True gradients of responses, as inner products within each group, in total and by block of
parameters.

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

also for the sum over blocks, whose sketches are independent: their part of |A|_F^2 is all that counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from g2rl.analysis.fidelity.names import TOTAL
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.policy import Policy

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
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
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    inside = {id(p): "embedding" for p in model.get_input_embeddings().parameters()}
    heads = {
        id(p): "head" for p in model.get_output_embeddings().parameters() if id(p) not in inside
    }
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = LAYER.search(name)
        if not parameter.requires_grad:
            continue
        if id(parameter) in inside:
            block = "embedding + head" if tied else "embedding"
        elif id(parameter) in heads:
            block = "head"
        elif layer:
            block = f"layer.{layer.group(1)}"
        else:
            block = "final norm" if "norm" in name or "ln_f" in name else "other"
        found.setdefault(block, []).append(parameter)
    if chosen is None:
        return found
    unknown = [name for name in chosen if name not in found]
    if unknown or not chosen:
        raise ValueError(f"blocks={list(chosen)}: the model has {', '.join(found)}")
    return {name: found[name] for name in found if name in chosen}


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
    batch = make_micro_batch(Sequences([prompt], [response]), [0], policy.device)
    with torch.enable_grad():
        mean = policy(batch, temperature).logps_T.mean()
        grads = torch.autograd.grad(mean, parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g.detach()
        for p, g in zip(parameters, grads, strict=True)
    ]


def sketch(gradients: Sequence[Tensor], cells: int, seed: Sequence[int]) -> Tensor:
    """CountSketch of the tensors taken as one long vector: (cells,) float32 or wider, on their
    device.

    The same seed and shapes give the same projection. Of no more than `cells` entries the vector
    itself is
    returned: a projection would only lose.
    """
    if sum(g.numel() for g in gradients) <= cells:
        return torch.cat([g.flatten() for g in gradients])
    out = gradients[0].new_zeros(
        cells, dtype=torch.promote_types(gradients[0].dtype, torch.float32)
    )
    state = int(np.random.SeedSequence(tuple(seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(state)
    for gradient in gradients:
        draw = torch.randint(2 * cells, (gradient.numel(),), generator=generator).to(
            gradient.device
        )
        signed = gradient.flatten().to(out.dtype) * ((draw & 1) * 2 - 1)
        out.index_add_(0, draw >> 1, signed)
    return out


def sketch_error(cosine: np.ndarray, cells: int) -> np.ndarray:
    """Upper bound of the standard error of a sketched cosine, (1 - c^2) / sqrt(cells); see
    above."""
    return (1 - np.square(cosine)) / math.sqrt(cells)


def gram_matrix(rows: Sequence[Tensor]) -> np.ndarray:
    """Inner products (G, G) of flat vectors, accumulated in float64 a slice at a time."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows[0].numel(), GRAM_COLUMNS):
        part = torch.stack([row[start : start + GRAM_COLUMNS] for row in rows]).double()
        total += (part @ part.T).cpu()
    return total.numpy()


def group_grams(
    policy: Policy,
    sequences: Sequences,
    blocks: dict[str, list[nn.Parameter]],
    *,
    temperature: float,
    projection: int | None = None,
    seed: Sequence[int] = (0,),
) -> dict[str, np.ndarray]:
    """Inner products of the true gradients of one group's responses, block by block and of all
    blocks.

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
    parameters = [p for members in blocks.values() for p in members]
    rows: dict[str, list[Tensor]] = {name: [] for name in blocks}
    was_training = policy.training
    policy.eval()
    try:
        for number, (prompt, response) in enumerate(
            zip(sequences.prompts, sequences.responses, strict=True)
        ):
            left = iter(response_gradient(policy, prompt, response, parameters, temperature))
            for place, (name, members) in enumerate(blocks.items()):
                own = [next(left) for _ in members]
                flat = (
                    torch.cat([g.flatten() for g in own])
                    if projection is None
                    else sketch(own, projection, (*seed, place))
                )
                if not bool(torch.isfinite(flat).all()):
                    raise ValueError(f"the gradient of response {number} is not finite in {name}")
                rows[name].append(flat)
    finally:
        policy.train(was_training)
    grams = {name: gram_matrix(vectors) for name, vectors in rows.items()}
    return {TOTAL: np.sum(list(grams.values()), axis=0), **grams}


def gram_cosines(gram_GG: np.ndarray) -> np.ndarray:
    """Cosines (G, G) from inner products, in [-1, 1]; those of a zero vector are all 0, its own
    included."""
    norm_G = np.sqrt(np.diag(gram_GG))
    scale_GG = np.outer(norm_G, norm_G)
    cosine_GG = np.divide(gram_GG, scale_GG, out=np.zeros_like(gram_GG), where=scale_GG > 0)
    return np.clip(cosine_GG, -1.0, 1.0)
