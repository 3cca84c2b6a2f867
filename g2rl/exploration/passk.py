"""Pass@k training: advantages whose expected gradient is that of pass@k, in three estimators.

With n = G responses to a prompt, c of them right, and rewards r in {0, 1}:

    analytic  Chen et al. 2025 (arXiv 2508.10751), the authors' `passk_adv.py`:
              R = 1 - C(n-c, k) / C(n, k),  sigma = sqrt(R (1 - R))
              A+ = (1 - R) / (sigma + eps)
              A- = (1 - R - C(n-c-1, k-1) / C(n-1, k-1)) / (sigma + eps)
    pkpo      Walder and Karkhanis 2025 (arXiv 2505.15201), for any rewards g:
              s_i = 1 / C(n, k) * sum over the sets of k responses with i in them of max g,
              less the baseline that `baseline` names
    loo       the estimator that arXiv 2602.02710's repository calls PKPO:
              w_i = r_i C(n-c, k-1) / C(n-1, k-1),  A_i = w_i - mean_{j != i} w_j

Traps. They are not the same: at n = 16, c = 12, k = 4 the gap between right and wrong is four times
larger under `loo` than under `pkpo` without a baseline. Under `analytic` the gap is exactly 0 once
n - c < k, so easy prompts teach nothing. All three need rewards of 0 and 1, which are used whatever
the base rewards are. And all are used as they are: dividing by the group's spread would undo the
weighing of hard against easy prompts that the methods are about. verl's `grpo_passk` is yet another
method (arXiv 2503.19595).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from g2rl.exploration.signal import ESTIMATOR, Stateless, refuse_unknown
from g2rl.types import GroupBatch, Shaped

ESTIMATORS = ("analytic", "pkpo", "loo")
BASELINES = ("none", "loo", "loo_minus_one")


class PassK(Stateless):
    """Advantages of pass@k, on rewards of 0 and 1, used as they are.

    Args:
        k: number of attempts of which one has to be right, >= 1; groups need at least k responses.
        estimator: "analytic", "pkpo" or "loo", see the module.
        baseline: of "pkpo": "loo_minus_one" (recommended by the paper, its Eq. 33), "loo" or
            "none"; the other estimators do not use it.
        eps: added to sigma under "analytic".
    """

    name = "passk"
    level = ESTIMATOR
    needs: frozenset[str] = frozenset()

    def __init__(
        self,
        k: int = 4,
        estimator: str = "analytic",
        baseline: str = "loo_minus_one",
        eps: float = 1e-6,
    ) -> None:
        if k < 1 or eps <= 0:
            raise ValueError(f"exploration: need k >= 1 and eps > 0, got {k} and {eps}")
        refuse_unknown("estimator", estimator, ESTIMATORS)
        refuse_unknown("baseline", baseline, BASELINES)
        self.k, self.estimator, self.baseline, self.eps = k, estimator, baseline, eps

        # leaving one out must leave k
        leaves_one_out = estimator == "pkpo" and baseline == "loo"
        self.smallest_group = k + 1 if leaves_one_out else k

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Advantages of one batch, and the mean unbiased estimate of pass@k as metric passk.

        Raises:
            ValueError: groups are smaller than the settings need.
        """
        # an estimate of the best of k needs enough responses to choose from
        group_size = batch.rewards_PG.shape[-1]
        if group_size < self.smallest_group:
            raise ValueError(
                f"exploration=passk with k={self.k} needs groups of at least "
                f"{self.smallest_group}, got {group_size}"
            )

        # the same rewards for all three
        r01_PG = batch.r01_PG.double()
        if self.estimator == "analytic":
            advantages_PG = analytic(r01_PG, self.k, self.eps)
        elif self.estimator == "pkpo":
            advantages_PG = pkpo(r01_PG, self.k, self.baseline)
        else:
            advantages_PG = leave_one_out(r01_PG, self.k)
        return Shaped(
            batch.rewards_PG,
            metrics={"passk": max_at_k(r01_PG, self.k).mean().item()},
            advantages_PG=advantages_PG.to(batch.rewards_PG.dtype),
        )


def choose(n: int, k: int) -> int:
    """The binomial coefficient C(n, k), 0 where n or k is negative."""
    return math.comb(n, k) if n >= 0 and k >= 0 else 0


def by_correct_count(r01_PG: Tensor, right: list[float], wrong: list[float]) -> Tensor:
    """Give right and wrong responses the values of the number of right ones in their group.

    Args:
        r01_PG: rewards of 0 and 1.
        right, wrong: values for c = 0 to G.

    Returns:
        (P, G) float64.
    """
    # look up both values by the number of right responses
    counts_P = r01_PG.sum(-1).long()
    right_P1 = torch.tensor(right, dtype=torch.float64)[counts_P].unsqueeze(-1)
    wrong_P1 = torch.tensor(wrong, dtype=torch.float64)[counts_P].unsqueeze(-1)
    return torch.where(r01_PG > 0, right_P1, wrong_P1)


def analytic(r01_PG: Tensor, k: int, eps: float = 1e-6) -> Tensor:
    """The analytic advantage of arXiv 2508.10751, see the module; 0 in a uniform group.

    Args:
        r01_PG: rewards of 0 and 1.
        k: 1 to G.
        eps: added to sigma.

    Returns:
        (P, G) float64.
    """
    n = r01_PG.shape[-1]
    right, wrong = [], []
    for c in range(n + 1):
        # expected reward of a set of k, and its standard deviation
        mean = 1 - choose(n - c, k) / choose(n, k)
        sigma = math.sqrt(mean * (1 - mean))

        # a wrong response is in sets that fail unless another member is right
        fails = choose(n - c - 1, k - 1) / choose(n - 1, k - 1)
        right.append((1 - mean) / (sigma + eps))
        wrong.append((1 - mean - fails) / (sigma + eps))

    # no response is right at c = 0 and none is wrong at c = n, where the other value has no meaning
    right[0] = wrong[n] = 0.0
    return by_correct_count(r01_PG, right, wrong)


def leave_one_out(r01_PG: Tensor, k: int) -> Tensor:
    """w_i = r_i C(n-c, k-1) / C(n-1, k-1) less the mean of the others; see the module.

    A group of one has no others, and keeps w_i. Returns (P, G) float64.
    """
    # a right response counts where all k - 1 companions are wrong
    n = r01_PG.shape[-1]
    weights = [choose(n - c, k - 1) / choose(n - 1, k - 1) for c in range(n + 1)]
    weights_PG = by_correct_count(r01_PG, weights, [0.0] * (n + 1))
    if n == 1:
        return weights_PG
    others_PG = (weights_PG.sum(-1, keepdim=True) - weights_PG) / (n - 1)
    return weights_PG - others_PG


# --- PKPO


def max_at_k(values_PG: Tensor, k: int) -> Tensor:
    """Unbiased estimate of the expected largest of k values, (...,); pass@k for values of 0 and 1.

        rho = sum_i C(i-1, k-1) / C(n, k) g_(i)     with g sorted, smallest first

    arXiv 2505.15201, Theorem 1. Needs 1 <= k <= n.
    """
    # the i-th smallest is the largest of C(i-1, k-1) sets
    n = values_PG.shape[-1]
    weights = [choose(i - 1, k - 1) / choose(n, k) for i in range(1, n + 1)]
    return values_PG.sort(-1).values @ torch.tensor(weights, dtype=values_PG.dtype)


def sets_with_each(values_PG: Tensor, k: int) -> Tensor:
    """s_i = 1 / C(n, k) times the sum of max g over the sets of k that hold i, (P, G).

    arXiv 2505.15201, Theorem 2: in ascending order s_i = m_ii g_i + sum_{j > i} m_j g_j with
    m_ii = C(i-1, k-1) / C(n, k) and m_j = C(j-2, k-2) / C(n, k).
    """
    # sets of which the response itself is the largest, and sets that a later one tops
    n = values_PG.shape[-1]
    own = [choose(i - 1, k - 1) / choose(n, k) for i in range(1, n + 1)]
    later = [choose(j - 2, k - 2) / choose(n, k) for j in range(1, n + 1)]

    # sums over all that follow in the order
    sorted_PG, order_PG = values_PG.sort(-1)
    shares_PG = sorted_PG * torch.tensor(later, dtype=values_PG.dtype)
    following_PG = shares_PG.flip(-1).cumsum(-1).flip(-1) - shares_PG
    sums_PG = sorted_PG * torch.tensor(own, dtype=values_PG.dtype) + following_PG

    # back to the order of the responses
    return torch.empty_like(sums_PG).scatter(-1, order_PG, sums_PG)


def pkpo(values_PG: Tensor, k: int, baseline: str = "loo_minus_one") -> Tensor:
    """PKPO's weight of each response, for any rewards, in float64.

    | baseline      | subtracts from s_i                                                     |
    |---------------|------------------------------------------------------------------------|
    | none          | nothing                                                                |
    | loo           | the mean of s_j when i is left out; needs n > k                        |
    | loo_minus_one | k / n times the estimate of max@(k-1) of the others (Eq. 33)           |

    With k = 1 there is no max@0; then `loo_minus_one` subtracts 1 / n times the mean of the others.
    A group of one keeps s_i.

    Args:
        values_PG: rewards of P groups.
        k: 1 to G.
        baseline: one of `BASELINES`.
    """
    # without a baseline
    n = values_PG.shape[-1]
    sums_PG = sets_with_each(values_PG.double(), k)
    if baseline == "none" or n == 1:
        return sums_PG

    # row i holds the values of all responses but i
    index_G = torch.arange(n)
    is_other_GG = index_G.unsqueeze(0) != index_G.unsqueeze(1)
    others_GH = index_G.expand(n, n)[is_other_GG].view(n, n - 1)
    others_PGH = values_PG.double()[:, others_GH]

    if baseline == "loo":
        # the mean over j of s_j is k / (n - 1) times the estimate of max@k
        return sums_PG - k / (n - 1) * max_at_k(others_PGH, k)
    if k == 1:
        return sums_PG - others_PGH.mean(-1) / n
    return sums_PG - k / n * max_at_k(others_PGH, k - 1)
