"""Gradient features: what they add to a scoring pass, and what the literal formula would cost.

V = 151,936 (Qwen3), D = 1024, 8 responses x 256 tokens. Only the LM head is timed; with a backbone
the ratio would be nearer to 1. The peer of the second pair is Eq. 14 of arXiv 2512.15687 as
written: the softmax of each token times W.
"""

from __future__ import annotations

import torch
from harness import Row, options, paired_times, peak_bytes, ratio_row, report
from torch import Tensor

from g2rl.policy.lm_head import FeatureRequest, head_pass

V, D, RESPONSES, LENGTH = 151_936, 1024, 8, 256


def literal(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs and Phi with the product of every token's softmax and W, response by response."""
    logps, features = [], []
    for n in range(RESPONSES):
        tokens = slice(n * LENGTH, (n + 1) * LENGTH)
        log_p_TV = (hidden_TD[tokens] @ weight_VD.T).log_softmax(-1)
        phi_TD = weight_VD[targets_T[tokens]] - log_p_TV.exp() @ weight_VD
        logps.append(log_p_TV.gather(1, targets_T[tokens, None]).squeeze(1))
        features.append(phi_TD.mean(0))
    return torch.cat(logps), torch.stack(features)


def main() -> None:
    """Time and memory of the three."""
    args = options(__doc__.splitlines()[0], repeats=3)
    torch.manual_seed(0)
    hidden_TD = torch.randn(RESPONSES * LENGTH, D)
    weight_VD = torch.randn(V, D) * 0.05
    targets_T = torch.randint(V, (RESPONSES * LENGTH,))
    request = FeatureRequest(torch.arange(RESPONSES).repeat_interleave(LENGTH), RESPONSES, 1.0)

    @torch.no_grad()
    def with_features() -> Tensor | None:
        return head_pass(hidden_TD, weight_VD, targets_T, features=request).features_ND

    @torch.no_grad()
    def without() -> Tensor:
        return head_pass(hidden_TD, weight_VD, targets_T).logps_T

    @torch.no_grad()
    def by_eq_14() -> Tensor:
        return literal(hidden_TD, weight_VD, targets_T)[1]

    # the two must give the same numbers, or the comparison means nothing
    features_ND, expected_ND = with_features(), by_eq_14()
    assert features_ND is not None
    torch.testing.assert_close(features_ND, expected_ND, rtol=1e-3, atol=1e-5)

    memory = {run.__name__: peak_bytes(run) for run in (with_features, without, by_eq_14)}
    what, eq14 = "scoring with features", "literal per-token Eq. 14"

    def memory_row(peer: str, name: str, target: str) -> Row:
        ours, other = memory["with_features"], memory[name]
        note = f"{ours / 2**20:.0f} MiB against {other / 2**20:.0f} MiB above what was resident"
        return ratio_row(what, peer, "peak memory", [ours], [other], target, note)

    report(
        [
            ratio_row(
                what,
                "without features",
                "time",
                *paired_times(with_features, without, args.repeats),
                "<= 1.03",
            ),
            memory_row("without features", "without", "<= 1.05"),
            ratio_row(
                what, eq14, "time", *paired_times(with_features, by_eq_14, args.repeats), "<= 0.80"
            ),
            memory_row(eq14, "by_eq_14", "<= 0.15"),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
