"""Update (forward and backward of the LM head) at V = 151,936 against full logits in plain torch.

D = 1024, 8 responses x 128 tokens. Both sides return the loss -sum w log p and its gradients for hidden
states and head, entropy included, as the update needs it.
"""

from __future__ import annotations

import torch
from harness import options, paired_times, peak_bytes, ratio_row, report
from torch import Tensor

from g2rl.lm_head import head_pass

V, D, TOKENS, TILE_BYTES = 151_936, 1024, 1024, 256 << 20


def main() -> None:
    args = options(__doc__.splitlines()[0], repeats=3)
    torch.manual_seed(0)
    hidden_TD = torch.randn(TOKENS, D, requires_grad=True)
    weight_VD = (torch.randn(V, D) * 0.05).requires_grad_()
    targets_T, weights_T = torch.randint(V, (TOKENS,)), torch.randn(TOKENS)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (hidden_TD, weight_VD))

    def tiled() -> tuple[Tensor, ...]:
        output = head_pass(hidden_TD, weight_VD, targets_T, tile_bytes=TILE_BYTES)
        _ = output.entropy_T.detach().mean()
        return gradients((weights_T * output.logps_T).sum())

    def full_logits() -> tuple[Tensor, ...]:
        log_p_TV = (hidden_TD @ weight_VD.T).log_softmax(-1)
        with torch.no_grad():
            _ = -(log_p_TV.exp() * log_p_TV).sum(-1).mean()
        return gradients((weights_T * log_p_TV.gather(1, targets_T[:, None]).squeeze(1)).sum())

    for found, expected in zip(tiled(), full_logits(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    memory = [peak_bytes(run) for run in (tiled, full_logits)]
    both = weight_VD.nbytes  # either side must return the gradient of the head
    note = (
        f"{memory[0] / 2**20:.0f} MiB against {memory[1] / 2**20:.0f} MiB, of which {both / 2**20:.0f} MiB "
        "on either side are the gradient of the head"
    )
    what, peer = "update of the head", "full logits in plain torch"
    report(
        [
            ratio_row(what, peer, "time", *paired_times(tiled, full_logits, args.repeats), "<= 1.0"),
            ratio_row(what, peer, "peak memory, all", [memory[0]], [memory[1]], "", note),
            ratio_row(
                what,
                peer,
                "peak memory above the gradient",
                [memory[0] - both],
                [memory[1] - both],
                "<= 0.25",
                note,
            ),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
