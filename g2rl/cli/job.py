"""What `g2rl-train` does in its folder: begin or continue, train, export, plot, summarise."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.analysis.plots import plot_run
from g2rl.checkpoint import export_model
from g2rl.cli.assemble import build_trainer
from g2rl.files import atomic_path, write_json
from g2rl.models import LoadedModel
from g2rl.report import ConsoleReporter, summary_rows
from g2rl.tracking import read_metrics
from g2rl.trainer import Trainer

log = logging.getLogger(__name__)
FREE_TO_CHANGE = ("resume", "tracking", "verify", "trainer.keep_checkpoints", "trainer.checkpoint_every")
RESUME = ("auto", "never")


def train(config: DictConfig, run_dir: Path) -> float:
    """Run or continue the training in `run_dir`; returns the final held-out pass@1."""
    if config.resume not in RESUME:
        raise ValueError(f"resume must be one of {RESUME}, got {config.resume!r}")
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    reporter = ConsoleReporter(run_dir)
    prepare(run_dir, plain, config.resume)
    trainer, loaded, graders = build_trainer(config, run_dir, reporter)
    try:
        state = trainer.parts.checkpoints.load_newest(trainer.parts.policy.model)
        describe(reporter, plain, loaded, trainer, state)
        trainer.parts.tracker.start(None if state is None else int(state["step"]), plain)
        trainer.run(state)
        export_model(loaded.model, loaded.tokenizer, loaded.stop_ids, run_dir / "model")
    finally:
        graders.close()
        trainer.parts.tracker.finish()
        reporter.close()
    rows = read_metrics(run_dir / "metrics.jsonl")
    plots = plot_run(run_dir, trainer.parts.benchmark.name)
    name = trainer.parts.benchmark.name
    write_json(run_dir / "summary.json", {"before": rows[0], "after": rows[-1]})
    reporter.summary(summary_rows(rows[0], rows[-1], name), plots)
    return float(rows[-1][f"eval/{name}/pass@1"])


def prepare(run_dir: Path, config: dict[str, Any], resume: str) -> None:
    """Make sure that the folder is new, wiped on request, or holds a run of the same configuration.

    Raises:
        ValueError: naming the settings that differ from those of the run in the folder.
    """
    place = run_dir / "config.yaml"
    if resume == "never" and place.exists():
        for name in ("checkpoints", "rollouts", "geometry", "probe", "model", "wandb"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        (run_dir / "metrics.jsonl").unlink(missing_ok=True)
    elif place.exists():
        before = OmegaConf.to_container(OmegaConf.load(place))
        changed = differences(before, config)
        if changed:
            raise ValueError(
                f"{run_dir} holds a run with other settings: {'; '.join(changed)}. Continue it with its own "
                "settings, start over with resume=never, or write elsewhere with hydra.run.dir=..."
            )
    with atomic_path(place) as aside:
        OmegaConf.save(OmegaConf.create(config), aside)


def differences(before: Any, after: Any, key: str = "") -> list[str]:
    """Settings that differ and matter to the result, as "key: old -> new"."""
    if key and any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in dict.fromkeys([*before, *after]):
            path = f"{key}.{name}" if key else str(name)
            found += differences(before.get(name), after.get(name), path)
        return found
    return [] if before == after else [f"{key}: {before} -> {after}"]


def describe(
    reporter: ConsoleReporter, config: dict[str, Any], loaded: LoadedModel, trainer: Trainer, state: Any
) -> None:
    """Say what is about to run: model, data, signal, stop tokens, and where it continues."""
    parameters = sum(p.numel() for p in loaded.model.parameters())
    stops = [f"{loaded.tokenizer.convert_ids_to_tokens(i)}={i}" for i in loaded.stop_ids]
    parts, settings = trainer.parts, trainer.settings
    reporter.say(
        f"model {config['model']['name']}: {parameters / 1e6:.2f}M parameters on {parts.policy.device}, "
        f"stop tokens {', '.join(stops)}"
    )
    dropped = getattr(parts.task, "dropped", 0)
    if dropped:
        reporter.say(f"task {parts.task.name}: {dropped} rows without a gold answer dropped")
    reporter.say(
        f"exploration {parts.signal.name} on task {parts.task.name}: {settings.steps} steps of "
        f"{settings.prompts_per_step} prompts x {settings.group_size} responses, up to "
        f"{settings.sampling.max_tokens} tokens at temperature {settings.sampling.temperature}"
    )
    if state is not None:
        reporter.say(f"continuing after step {int(state['step'])}")
