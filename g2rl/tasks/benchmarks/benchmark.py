"""A benchmark: held-out problems, their verifier, and how samples of them are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.rows import refuse_twins
from g2rl.types import Problem, SamplingParams


class Benchmark:
    """A held-out set of problems.

    Args:
        name: as in metric names, ``eval/NAME/pass@1``.
        problems: in file order.
        samples: n responses a problem.
        ks: the k of pass@k and maj@k, every k <= n, 1 always among them; None takes the powers of
            two up to n, and n.
        params: sampling parameters (0.8 is the published validation temperature).
    """

    def __init__(
        self,
        name: str,
        problems: Sequence[Problem],
        verifier: Verifier,
        *,
        samples: int,
        ks: Sequence[int] | None,
        params: SamplingParams,
    ) -> None:
        if not problems:
            raise ValueError(f"benchmark {name} holds no problem")

        # 1 is always among them
        if ks is None:
            ks = powers_of_two(samples)
        elif ks:
            ks = sorted({1, *ks})

        # no k may be over n
        if samples < 1 or not ks or min(ks) < 1 or max(ks) > samples:
            raise ValueError(
                f"benchmark {name}: need 1 <= k <= samples, got ks={ks}, samples={samples}; set "
                "benchmark.ks too (null: powers of two up to samples)"
            )
        refuse_twins([problem.id for problem in problems], f"benchmark {name}")
        self.name, self.problems, self.verifier = name, list(problems), verifier
        self.samples, self.ks, self.params = samples, ks, params


def powers_of_two(samples: int) -> list[int]:
    """1, 2, 4, ... up to `samples`, and `samples` itself: ``powers_of_two(12)`` is [1, 2, 4, 8,
    12]."""
    powers = {2**exponent for exponent in range(max(samples, 0).bit_length())}
    return sorted(powers | {samples})
