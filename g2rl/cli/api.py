"""The commands as functions: what `g2rl.train` and its neighbours are.

Each does what the command of the same name does in a shell, with the same words, and returns what
was written as data frames. What a command would say in one line and end with is an error here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from g2rl.analysis.loaded import LoadedRun, Tables, load_run
from g2rl.cli.config.launch import (
    escape_paths,
    expand_combinations,
    register_resolvers,
    share_cores,
)
from g2rl.cli.config.mistakes import Shelf, explain_mistakes
from g2rl.cli.config.own_code import make_importable
from g2rl.cli.config.several import explain_several
from g2rl.cli.sweep.finished import finished_score
from g2rl.runs.files import atomic_path

__all__ = ["analyze", "compare", "evaluate", "load_run", "report", "train"]

PATH_KEYS = ("run", "samples", "compare", "data_dir")
"""Settings whose values are paths, in which "=" needs no escape."""


def train(*overrides: str, folder: Path | str | None = None) -> LoadedRun:
    """Train as `g2rl-train` does, and return the run.

    A run that has finished is returned at once, one that was interrupted is continued.

    Args:
        overrides: as in the shell: ``"exploration=none", "trainer.steps=10"``.
        folder: of the run; None takes the one that `g2rl-train` would take, below runs/ of the
            working folder.

    Raises:
        ValueError: a word that is misspelt, a sweep, or settings that cannot be.
        Interrupted: asked to stop, after a complete step that is saved.
    """
    with _composed("train", overrides, folder) as (config, place):
        # torch is loaded only if there is something to do
        if config.resume == "auto" and finished_score(config, place) is not None:
            return load_run(place)
        from g2rl.cli.jobs.train import train as train_job

        _keep_words(place, overrides)
        train_job(config, place)
    return load_run(place)


def evaluate(*overrides: str, folder: Path | str | None = None) -> Tables:
    """Evaluate as `g2rl-eval` does, and return its tables: results, problems, samples.

    Args:
        overrides: as in the shell: ``"run=runs/NAME", "benchmark=math500"``.
        folder: where to write; None takes the one that `g2rl-eval` would take.

    Raises:
        ValueError: a word that is misspelt, a sweep, or settings that cannot be.
    """
    from g2rl.cli.jobs.evaluate import evaluate as evaluate_job

    with _composed("evaluate", overrides, folder) as (config, place):
        place.mkdir(parents=True, exist_ok=True)
        evaluate_job(config, place, list(overrides))
    return Tables(place)


def analyze(what: str, *overrides: str, folder: Path | str | None = None) -> Tables:
    """Analyse a model as ``g2rl-analyze geometry`` or ``g2rl-analyze fidelity`` does.

    Args:
        what: geometry or fidelity.
        overrides: as in the shell: ``"run=runs/NAME", "problems=10"``.
        folder: where to write; None takes the one that the command would take.

    Raises:
        ValueError: an unknown analysis, a word that is misspelt, a sweep, or settings that cannot
            be.
    """
    if what not in ("geometry", "fidelity"):
        raise ValueError(
            f"there is no analysis {what!r}: choose geometry or fidelity; runs are compared by "
            "g2rl.compare"
        )
    from g2rl.cli.jobs.fidelity import fidelity
    from g2rl.cli.jobs.geometry import geometry

    with _composed(f"analyze_{what}", overrides, folder) as (config, place):
        place.mkdir(parents=True, exist_ok=True)
        job = geometry if what == "geometry" else fidelity
        job(config, place, list(overrides))
    return Tables(place)


def compare(
    *folders: Path | str,
    out: Path | str | None = None,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    against: str | None = None,
    family: Sequence[str] = (),
    partial: bool = False,
) -> Tables:
    """Compare runs as ``g2rl-analyze compare`` does; returns runs and, of several arms, contrasts.

    Args:
        folders: of runs, or folders that hold runs.
        out, by, metrics, against, family, partial: as in the shell.

    Raises:
        ValueError: no run, no finished run without `partial`, a seed twice in an arm, or an unknown
            metric or arm.
    """
    from g2rl.analysis.comparison.choices import Choices
    from g2rl.cli.jobs.compare import compare as compare_job

    place = None if out is None else Path(out)
    paths = [Path(folder) for folder in folders]
    return Tables(compare_job(paths, place, Choices(by, metrics, against, family, partial)))


def report(*folders: Path | str, out: Path | str | None = None, **options: Any) -> Path:
    """Write the page about a run, or the one that compares several, as `g2rl-report` does.

    Args:
        folders: of runs, or folders that hold runs.
        out: the file; None is report.html in the folder, or a file in evals/ for several.
        options: by, metrics, against, family and partial, as in the shell; budget, how many
            responses it may hold.

    Returns:
        The file that was written.
    """
    from g2rl.analysis.comparison.choices import Choices
    from g2rl.cli.jobs.report import report as report_job

    place = None if out is None else Path(out)
    budget = options.pop("budget", None)
    return report_job([Path(folder) for folder in folders], place, budget, Choices(**options))


# from words to a configuration


@contextmanager
def _composed(
    command: str, overrides: Sequence[str], folder: Path | str | None
) -> Iterator[tuple[DictConfig, Path]]:
    """The configuration of a command and its folder, while Hydra knows of them.

    Args:
        command: a file of conf/ without its ending.
        overrides: as typed.
        folder: where the command writes; None takes the one that conf/ names.

    Raises:
        ValueError: a word that is misspelt, or a sweep.
    """
    # the same preparations as in a shell
    share_cores()
    register_resolvers()
    words = expand_combinations(escape_paths(overrides, PATH_KEYS))
    problem = explain_mistakes(words, command) if words else None
    problem = problem or explain_several(words, command, (), "call the function once for each")
    if problem:
        raise ValueError(problem)

    # Hydra's own node says where the command writes, and what was chosen
    try:
        config = Shelf(command).compose(words, hydra=True)
    except HydraException as error:
        raise ValueError(f"{' '.join(words)}: {error}") from error
    _refuse_sweep(config, words)

    # labels of W&B ask Hydra for the choices; afterwards it is as it was
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        place = Path(config.hydra.run.dir if folder is None else folder)
        with open_dict(config):
            del config["hydra"]
        make_importable(config, [])
        yield config, place
    finally:
        HydraConfig.instance().cfg = before


def _refuse_sweep(config: DictConfig, words: Sequence[str]) -> None:
    """Refuse an experiment that is a sweep: a function makes one run.

    Raises:
        ValueError: with what to do instead.
    """
    if config.hydra.mode == RunMode.MULTIRUN:
        raise ValueError(
            f"{' '.join(words)} is a sweep of many runs: start it in a shell, or take one run of "
            "it with hydra.mode=RUN"
        )


def _keep_words(folder: Path, overrides: Sequence[str]) -> None:
    """Write down what was typed, where Hydra writes it; what an earlier start wrote stays."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file():
        with atomic_path(path) as aside:
            OmegaConf.save(OmegaConf.create(list(overrides)), aside)
