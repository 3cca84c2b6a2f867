"""What the process that commands are forked from has imported and done, see `tests.commands`.

A command imports some of it late, when it first needs it, and its first composition is three times
as dear as a later one. Nothing here starts a thread, which a fork would lose.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from tests.support import composed

MODULES = (
    "g2rl.cli.jobs.train",
    "g2rl.cli.jobs.evaluate",
    "g2rl.cli.jobs.geometry",
    "g2rl.cli.config.launch",
    "g2rl.cli.sweep.callback",
    "g2rl.engines.transformers",
    "g2rl.exploration.g2rl",
    "g2rl.tasks.benchmarks.countdown",
    "transformers.models.qwen3.modeling_qwen3",
    # what writing tables and drawing figures import late
    "matplotlib.backends.backend_agg",
    "pyarrow.dataset",
)

PYDANTIC = "pydantic._internal._fields"
"""What W&B, which TRL imports, describes its settings with."""
OF_TRL = ("datasets", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer")
"""With xdist every process collects the tests of TRL too, which import it anyway."""
REGISTER = atexit.register
AT_THE_END: list[Callable[..., Any]] = []
"""What they do at the end of this process, and not at the end of a command."""

for name in MODULES:
    importlib.import_module(name)

# descriptions are sought among all modules that are loaded, for each of sixty classes
with contextlib.suppress(ModuleNotFoundError):
    importlib.import_module(PYDANTIC).extract_docstrings_from_cls = lambda *_, **__: {}


def register(function: Callable[..., Any], *args: Any, **settings: Any) -> Callable[..., Any]:
    """What stands for `atexit.register` while a library is imported."""
    AT_THE_END.append(function)
    return REGISTER(function, *args, **settings)


# W&B would remove a folder of this process at the end of each command
if "PYTEST_XDIST_WORKER" in os.environ and importlib.util.find_spec("trl"):
    atexit.register = register
    for name in OF_TRL:
        importlib.import_module(name)
    atexit.register = REGISTER
composed(with_hydra=True)

# a process that loads its first model makes a table of the weights' names of all that there are
with contextlib.suppress(ModuleNotFoundError, AttributeError):
    mapping = importlib.import_module("transformers.conversion_mapping")
    mapping.get_checkpoint_conversion_mapping("qwen3")
