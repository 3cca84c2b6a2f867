"""A benchmark: held-out problems, their verifier, and how samples of them are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.rows import refuse_twins
from g2rl.types import Problem, SamplingParams


class Benchmark:
    """A held-out set of problems.

    Args:
        name: as in the names of metrics, ``eval/NAME/pass@1``.
        problems: in file order.
        verifier: judges the responses.
        samples: n, the number of responses to each problem.
        ks: the k of pass@k and maj@k, each at most n; 1 is added. None takes the powers of two up
            to n, and n.
        params: sampling parameters (0.8 is the published validation temperature).

    Raises:
        ValueError: there is no problem, or a k is out of range.
        DataError: two problems share an id.
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

        # pass@1 is always reported, unless no k is asked for, which is refused
        if ks is None:
            ks = powers_of_two(samples)
        else:
            ks = sorted({1, *ks}) if ks else []
        if samples < 1 or not ks or min(ks) < 1 or max(ks) > samples:
            raise ValueError(
                f"benchmark {name}: need 1 <= k <= samples, got ks={ks}, samples={samples}; set "
                f"benchmark.samples to {max(ks, default=1)} or more, or benchmark.ks to what it "
                "allows (null: powers of two up to samples)"
            )
        refuse_twins([problem.id for problem in problems], f"benchmark {name}")

        self.name = name
        self.problems = list(problems)
        self.verifier = verifier
        self.samples = samples
        self.ks = ks
        self.params = params


def powers_of_two(samples: int) -> list[int]:
    """The powers of two up to `samples`, and `samples`: [1, 2, 4, 8, 12] for 12."""
    powers = {2**exponent for exponent in range(max(samples, 0).bit_length())}
    return sorted(powers | {samples})
