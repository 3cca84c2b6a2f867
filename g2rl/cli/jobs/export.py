"""What `g2rl export` does: load a checkpoint, write it in Hugging Face format, describe it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from g2rl.cli.build.model import load_model, model_of_run
from g2rl.cli.build.settings import read_model_settings
from g2rl.cli.config.launch import version_line
from g2rl.cli.folder import read_config_file
from g2rl.runs.checkpoints import export_model
from g2rl.runs.files import atomic_path
from g2rl.runs.layout import RunFolder, step_number
from g2rl.runs.tracking import read_metrics

CARD = """# {title}

{model} after step {step} of reinforcement learning with verifiable rewards, made by
[g2rl](https://github.com/g2rl/g2rl).

| | |
|---|---|
| exploration signal | `{signal}` |
| task | `{task}` |
| algorithm | `{algorithm}` |
| rollouts | {prompts} prompts x {group} responses a step |
| learning rate | {lr} |
| seed | {seed} |

{results}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

Training drew responses at temperature {temperature}, with up to {tokens} tokens{chat}.
Made with {versions}.
"""


def export_run(run: Path, checkpoint: str | int, out: Path) -> Path:
    """Write one checkpoint of a run as a folder that transformers loads.

    Args:
        run: folder of the run.
        checkpoint: best, newest, or the number of a step.
        out: the folder to make.

    Returns:
        The model card.

    Raises:
        ValueError: `out` holds something, or the run or the checkpoint is not there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} is there already: name a new folder, or delete it")
    node = model_of_run(run.expanduser(), ["model.device=cpu"], checkpoint)
    settings = read_model_settings(node)
    assert settings.checkpoint is not None

    # the policy as the run had it at that step
    loaded = load_model(settings)
    lora_export = "merged" if settings.lora is None else settings.lora.export
    export_model(loaded.model, loaded.tokenizer, loaded.stop_ids, out, lora_export)

    # the card comes last: where it is, the model is whole
    config: Any = OmegaConf.to_container(read_config_file(RunFolder(run).config))
    step = step_number(settings.checkpoint.name) or 0
    card = out / "README.md"
    with atomic_path(card) as aside:
        aside.write_text(model_card(run, config, step), encoding="utf-8")
    return card


def model_card(run: Path, config: Mapping[str, Any], step: int) -> str:
    """README.md of an exported model: what the hub reads, then what a person reads.

    Args:
        run: folder of the run.
        config: its stored configuration.
        step: after which the policy is exported.
    """
    model, task, trainer = config["model"], config["task"], config["trainer"]
    signal = str(config["exploration"]["_target_"]).split(".")[-2]
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["g2rl", "rlvr", signal, str(task["name"])])),
    }

    # a hub id is what the model was made from; a folder of this disk says nothing to others
    source = str(model["source"])
    if ":" not in source and not Path(source).expanduser().exists():
        head["base_model"] = source

    front_matter = yaml.safe_dump(head, sort_keys=False)
    text = CARD.format(
        title=f"{model['name']} on {task['name']}, {signal}",
        model=source,
        step=step,
        signal=signal,
        task=task["name"],
        algorithm=config["algorithm"].get("name", "grpo"),
        prompts=trainer["prompts_per_step"],
        group=trainer["group_size"],
        lr=f"{config['optimizer']['lr']:g}",
        seed=config["seed"],
        results=results_table(run, step),
        temperature=task["temperature"],
        tokens=task["max_response_tokens"],
        chat=", through the chat template" if model.get("chat", True) else "",
        versions=version_line(),
    )
    return f"---\n{front_matter}---\n\n{text}"


def results_table(run: Path, step: int) -> str:
    """Held-out accuracies before training and after the step, as far as the run measured them."""
    row_of_step: dict[int, dict[str, Any]] = {}
    for row in read_metrics(RunFolder(run).metrics):
        row_of_step[int(row["step"])] = row
    before, after = row_of_step.get(0, {}), row_of_step.get(step, {})

    # accuracies only, with their intervals
    lines = ["| held out | before training | this checkpoint |", "|---|---|---|"]
    for name in after:
        is_bound = name.endswith(("_low", "_high"))
        if name.startswith("eval/") and ("/pass@" in name or "/maj@" in name) and not is_bound:
            short = name.removeprefix("eval/").replace("/", " ")
            lines.append(f"| {short} | {_cell(before, name)} | {_cell(after, name)} |")
    if len(lines) == 2:
        return f"The run was not evaluated after step {step}."
    return "\n".join([*lines, "", "With 95 % bootstrap intervals over problems."])


def _cell(row: Mapping[str, Any], name: str) -> str:
    """A value with its interval; a dash where it was not measured."""
    if name not in row:
        return "-"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{row[name]:.3f}{interval}"
