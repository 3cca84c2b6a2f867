"""g2rl: a test bench for exploration signals in reinforcement learning with verifiable rewards.

    train, evaluate, analyze, compare, report     what the commands do, as functions
    load_run                                      a run on disk as data frames

They are imported when they are used, so that `import g2rl` loads nothing. See docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from g2rl.cli.api import analyze, compare, evaluate, load_run, report, train

__version__ = "0.1.0"
__all__ = ["analyze", "compare", "evaluate", "load_run", "report", "train"]


def __getattr__(name: str) -> Any:
    """The functions of `__all__`, imported at their first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'g2rl' has no attribute {name!r}")
    from g2rl.cli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """The functions, before anything of them is loaded."""
    return [*globals(), *__all__]
