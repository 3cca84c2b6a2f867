"""Update (forward and backward of the LM head) at V = 151,936 against full logits in plain torch.

D = 1024, 8 responses x 128 tokens. Both sides return what the update needs: the gradients of the
loss sum w log p for hidden states and head, and the entropies. Further rows show the head that
recomputes logits in its backward, which is used under bfloat16 and if the loss is not a sum over
tokens.
"""

from __future__ import annotations

import torch
from harness import options, paired_times, peak_bytes, ratio_row, report
from torch import Tensor

from g2rl.policy.lm_head import head_pass

V, D, TOKENS, TILE_BYTES = 151_936, 1024, 1024, 256 << 20


def main() -> None:
    """Time and memory of the two heads against full logits."""
    args = options(__doc__.splitlines()[0], repeats=3)
    torch.manual_seed(0)
    hidden_TD = torch.randn(TOKENS, D, requires_grad=True)
    weight_VD = (torch.randn(V, D) * 0.05).requires_grad_()
    targets_T, weights_T = torch.randint(V, (TOKENS,)), torch.randn(TOKENS)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (hidden_TD, weight_VD))

    def loss_of(tile: slice, logps: Tensor, entropies: Tensor) -> Tensor:
        return (weights_T[tile] * logps).sum()

    def fused() -> tuple[Tensor, ...]:
        output = head_pass(
            hidden_TD, weight_VD, targets_T, objective=loss_of, tile_bytes=TILE_BYTES
        )
        assert output.loss is not None
        return gradients(output.loss)

    def recomputing() -> tuple[Tensor, ...]:
        output = head_pass(hidden_TD, weight_VD, targets_T, tile_bytes=TILE_BYTES)
        return gradients((weights_T * output.logps_T).sum())

    def full_logits() -> tuple[Tensor, ...]:
        log_p_TV = (hidden_TD @ weight_VD.T).log_softmax(-1)
        with torch.no_grad():
            _ = -(log_p_TV.exp() * log_p_TV).sum(-1).mean()
        return gradients((weights_T * log_p_TV.gather(1, targets_T[:, None]).squeeze(1)).sum())

    # all three must give the same gradients
    for ours in (fused, recomputing):
        for gradient, expected in zip(ours(), full_logits(), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)

    both = weight_VD.nbytes  # either side must return the gradient of the head
    peer, rows = "full logits in plain torch", []
    for what, ours, (time, memory_target) in (
        ("update of the head", fused, ("<= 1.0", "<= 0.25")),
        ("update of the head, recomputing", recomputing, ("", "")),
    ):
        memory = [peak_bytes(run) for run in (ours, full_logits)]
        note = (
            f"{memory[0] / 2**20:.0f} MiB against {memory[1] / 2**20:.0f} MiB, of which "
            f"{both / 2**20:.0f} MiB on either side are the gradient of the head"
        )
        above = [[bytes_ - both] for bytes_ in memory]
        rows += [
            ratio_row(what, peer, "time", *paired_times(ours, full_logits, args.repeats), time),
            ratio_row(what, peer, "peak memory, all", [memory[0]], [memory[1]], "", note),
            ratio_row(what, peer, "peak memory above the gradient", *above, memory_target, note),
        ]
    report(rows, args.json)


if __name__ == "__main__":
    main()
