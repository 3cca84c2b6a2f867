"""MaxRL: maximum likelihood of success instead of its probability (arXiv 2602.02710).

Tajwar, Zeng et al. 2026. The gradient of log p is a mixture of those of all pass@k, so rare success
weighs more. With c of G responses right, p = c / G and rewards of 0 and 1:

    A_i = (r_i - p) / (p + eps)

Truncated after `order` T, the series log p = -sum_k (1 - p)^k / k has the unbiased estimator (the
authors' `maclaurin`), with f = G - c failures:

    right  A+ = 1
    wrong  A- = -sum_{k = 2 .. min(T, f)} C(f-1, k-1) / C(G-1, k-1)

T = 1 is REINFORCE without a baseline. With `baseline=loo` every tuple's mean is compared with that
of the other tuples (the authors' `maclaurin_baseline`).

Deviation: the authors' truncated weights are 1 / G of these; here both forms have one scale.

Traps. Rewards of -1 and +1 would make the divisor negative, so those of 0 and 1 are used whatever
the base rewards are. The authors' option `misc` divides by spread *and* mean, another method. A
group without a right response gives 0 in the full form, but not in the truncated one without a
baseline, which then punishes every response alike.
"""

from __future__ import annotations

import math

from torch import Tensor

from g2rl.exploration.passk import by_correct_count, choose
from g2rl.exploration.signal import ESTIMATOR, Stateless, refuse_unknown
from g2rl.types import GroupBatch, Shaped

BASELINES = ("none", "loo")


class MaxRL(Stateless):
    """Advantages of maximum likelihood, on rewards of 0 and 1, used as they are.

    Args:
        order: T of the truncated series, >= 1; None is the full form (r - p) / (p + eps).
        baseline: of the truncated series, "none" or "loo".
        eps: added to the mean of the group.
    """

    name = "maxrl"
    level = ESTIMATOR
    needs: frozenset[str] = frozenset()

    def __init__(self, order: int | None = None, baseline: str = "none", eps: float = 1e-6) -> None:
        if (order is not None and order < 1) or eps <= 0:
            raise ValueError(f"exploration: need order >= 1 and eps > 0, got {order} and {eps}")
        # the baseline belongs to the truncated series alone
        refuse_unknown("baseline", baseline, BASELINES)
        self.order, self.baseline, self.eps = order, baseline, eps

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Advantages of one batch."""
        # three forms: full, truncated, truncated with a baseline
        r01_PG = batch.r01_PG.double()
        if self.order is None:
            advantages_PG = maximum_likelihood(r01_PG, self.eps)
        elif self.baseline == "none":
            advantages_PG = truncated(r01_PG, self.order)
        else:
            advantages_PG = truncated_with_baseline(r01_PG, self.order)
        return Shaped(batch.rewards_PG, advantages_PG=advantages_PG.to(batch.rewards_PG.dtype))


def maximum_likelihood(r01_PG: Tensor, eps: float = 1e-6) -> Tensor:
    """(r - p) / (p + eps) with p the mean of the group, (P, G); 0 in a uniform group."""
    # a group without a right response is divided by eps, and its numerators are 0
    mean_P1 = r01_PG.mean(-1, keepdim=True)
    return (r01_PG - mean_P1) / (mean_P1 + eps)


def truncated(r01_PG: Tensor, order: int) -> Tensor:
    """The series up to `order`, without a baseline; see the module.

    Args:
        r01_PG: rewards of 0 and 1.
        order: T >= 1.

    Returns:
        (P, G) float64.
    """
    # the value of a wrong response, for every number of right ones
    n = r01_PG.shape[-1]
    wrong: list[float] = []
    for c in range(n + 1):
        # chance that k - 1 others of a wrong response are wrong too
        failures = n - c
        shares = 0.0
        for k in range(2, min(order, failures) + 1):
            shares += choose(failures - 1, k - 1) / choose(n - 1, k - 1)
        wrong.append(-shares)
    return by_correct_count(r01_PG, [1.0] * (n + 1), wrong)


def truncated_with_baseline(r01_PG: Tensor, order: int) -> Tensor:
    """The series up to `order`, each tuple compared with the mean of all other tuples.

    Re-derived from `maclaurin_weights_loo` of the authors: with q_k = C(f, k) / (C(n, k) - 1)

        right  A+ = 1 + sum_k q_k
        wrong  A- =     sum_k q_k (1 - n / f)          k = 2 .. min(T, n - 1), k <= f

    The tuple of all n responses has no other; it keeps its term, -1 where all are wrong and T >= n.

    Returns:
        (P, G) float64.
    """
    n = r01_PG.shape[-1]
    right: list[float] = []
    wrong: list[float] = []
    for c in range(n + 1):
        # q_k summed over the tuples that can be all wrong
        failures = n - c
        shares = 0.0
        for k in range(2, min(order, n - 1, failures) + 1):
            shares += choose(failures, k) / (math.comb(n, k) - 1)
        right.append(1 + shares)
        wrong.append(shares * (1 - n / failures) if failures else 0.0)

    # the one tuple of all responses
    if order >= n >= 2:
        wrong[0] -= 1.0
    return by_correct_count(r01_PG, right, wrong)
