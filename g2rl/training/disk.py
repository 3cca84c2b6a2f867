"""How much room on a disk the checkpoints and the exported model of a run take."""

from __future__ import annotations

from dataclasses import dataclass

MOMENTS = 2
"""Numbers that AdamW keeps for every trained parameter, of the parameter's own type."""
WORTH_SAYING = 1_000_000_000
"""Bytes of checkpoints from which a run announces them."""


@dataclass(slots=True, frozen=True)
class DiskPlan:
    """An estimate, made from the number of parameters; tables and metrics are not in it.

    Args:
        parameters: of the whole model.
        trained: those that train; a checkpoint holds no others.
        weight_bytes: of one parameter, 4 for float32.
        kept: checkpoints that stay at most.
        past: steps whose weights a checkpoint holds besides (`trainer.lag`).
    """

    parameters: int
    trained: int
    weight_bytes: int
    kept: int
    past: int = 0

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint: trained weights, those of past steps, and the optimizer's
        moments."""
        return self.trained * self.weight_bytes * (1 + self.past + MOMENTS)

    @property
    def checkpoints(self) -> int:
        """The most bytes of all checkpoints: those that stay, and one that is being written."""
        return self.checkpoint * (self.kept + 1)

    @property
    def model(self) -> int:
        """Bytes of the exported model, whole and in float32 where adapters were trained."""
        return self.parameters * self.weight_bytes


def announcement(plan: DiskPlan) -> str | None:
    """What a run says of its checkpoints before the first is written; None of small ones."""
    if plan.checkpoints < WORTH_SAYING:
        return None
    return (
        f"checkpoints take {size_in_words(plan.checkpoint)} each, up to "
        f"{size_in_words(plan.checkpoints)} at a time (trainer.keep_checkpoints), "
        f"the exported model {size_in_words(plan.model)}"
    )


def kept_checkpoints(steps: int, every: int, keep: int, keep_best: bool) -> int:
    """How many checkpoints of a run stay at most: the newest and, beside them, the best.

    Args:
        steps: of the run; there is always one after the last.
        every: steps between checkpoints.
        keep: of the newest.
        keep_best: whether the best stays however old it is.
    """
    # the last step has one too, whether it is due or not
    written = steps // every + (steps % every > 0)
    return min(written, keep + keep_best)


def size_in_words(count: int) -> str:
    """Bytes as a person reads them: 1,864,000 is 1.9 MB."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"
