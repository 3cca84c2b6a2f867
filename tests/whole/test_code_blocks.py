"""Every command and code block of the documentation is tried, in the way that its kind allows.

- Python is executed, page by page in one scope, unless another test does so.
- Commands of g2rl that take settings are composed: choices, names and values are those of conf/.
- Folders of runs that a command reads are those that a command of the page writes.
- Options of other commands are looked up in their source; targets of make, files and extras exist.
- JSON and YAML are read.

Commands are run by the tests of what they do, not here.

What is none of these fails. A block that cannot be tried stands in a table below with the reason.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from g2rl.cli.config.launch import expand_combinations
from tests.support import ROOT, composed
from tests.whole.test_docs import exists

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "experiments/**/*.md", "notebooks/*.md", "speed/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)

RUN_ELSEWHERE = {
    "docs/integrations.md": "tests/integrations/test_pages.py",
    "docs/python.md": "tests/cli/test_api.py",
}
"""Pages whose Python takes long or needs an extra, and the tests that run it."""

OUTSIDE = {
    "accelerate": "a launcher of Hugging Face for a script of the reader's own",
    "jupyter": "tests/whole/test_notebooks.py runs the notebooks",
    "wandb": "sends a run to an account",
    "sbatch": "tests/whole/test_paper_recipes.py reads the script",
}
"""Programs that are not g2rl's, and why they are not tried here."""

OUTSIDE_MODULES = {
    "verl.trainer.main_ppo": "make test-verl runs what it calls, as far as a CPU goes",
}

PLACEHOLDER = re.compile(r"^[A-Z][A-Z_0-9]*$")
"""A word that stands for something of the reader's own: FOLDER, NAME, FOLDER_OR_HUB_ID."""

LEFT_OUT = ("...", "…")
"""How a word ends that stands for more words, or for any value."""

MADE_ON_THE_PAGE = ("exploration=brevity",)
"""Choices whose files the page asks the reader to write; tests/whole/test_readme.py tries them."""

SETTINGS = {
    "g2rl-train": "train",
    "g2rl-eval": "evaluate",
    "g2rl-analyze geometry": "analyze_geometry",
    "g2rl-analyze fidelity": "analyze_fidelity",
    "g2rl train": "train",
    "g2rl eval": "evaluate",
    "g2rl analyze geometry": "analyze_geometry",
    "g2rl analyze fidelity": "analyze_fidelity",
    "g2rl.cli.train": "train",
    "g2rl.cli.evaluate": "evaluate",
}
"""Commands that take settings, and the file of conf/ that each reads."""

PROGRAMS = ("g2rl", "make", "torchrun", "python", "pip", "uv", "bash", *OUTSIDE)
SHELL = ("console", "bash", "sh", "shell")
NOT_CODE = ("", "text")


# --- what a page holds ----------------------------------------------------------------------


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text)


def commands_of(page: str) -> list[str]:
    """Every command of a page: in blocks for a shell, in indented blocks, and among the words."""
    text = text_of(page)
    found: list[str] = []
    for language, content in blocks_of(text):
        if language in SHELL:
            typed = re.findall(r"(?m)^\$ ((?:.*\\\n)*.*)$", content)
            found += typed or commands_in(content)
    rest = re.sub(r"(?ms)^```.*?^```$", "", text)
    for block in re.findall(r"(?m)(?:^    \S.*\n(?:^     .*\n)*)+", rest):
        found += commands_in(re.sub(r"(?m)^    ", "", block))
    found += [span for span in re.findall(r"`([^`\n]+ [^`\n]+)`", rest) if is_command(span)]
    return [command.replace("\\\n", " ") for command in found]


def commands_in(block: str) -> list[str]:
    """The lines of a block that are commands, each with its continuation."""
    lines = re.findall(r"(?m)^((?:.*\\\n)*.*)$", block)
    return [line for line in lines if is_command(line)]


def is_command(line: str) -> bool:
    """Whether a line begins as a command does, perhaps with variables before it."""
    line = re.sub(r"^(?:[A-Z_0-9]+=\S+ )+", "", line)
    program = line.partition(" ")[0].rpartition("/")[2]
    return program.partition("-")[0] in PROGRAMS or program.endswith(".sh")


# --- commands -------------------------------------------------------------------------------


def problem_with(command: str) -> str | None:
    """What is wrong with a command; None if nothing is."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"^[A-Z_0-9]+=", words[0]):
        del words[0]
    if not words or words[0] == "export":
        return None
    words = [
        word for word in words if word not in ("...", "…") and not word.endswith(("=...", "=…"))
    ]

    program = words[0].rpartition("/")[2]
    if program in OUTSIDE:
        return None
    if program == "make":
        return problem_with_make(words[1:])
    if program in ("pip", "uv"):
        return problem_with_pip(words[1:])
    if program == "torchrun":
        return problem_with_module(words[words.index("-m") + 1 :])
    if program == "python" and "-m" in words:
        return problem_with_module(words[words.index("-m") + 1 :])
    if program in ("python", "bash"):
        return problem_with_options(words[1], words[2:])
    if program.endswith(".sh"):
        return None if (ROOT / words[0]).is_file() else f"there is no {words[0]}"
    if program.partition("-")[0] == "g2rl":
        return problem_with_g2rl([program, *words[1:]])
    return f"no kind of command: {command}"


def problem_with_make(words: list[str]) -> str | None:
    makefile = text_of("Makefile")
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and not re.search(rf"(?m)^{re.escape(name)}:", makefile):
            return f"the Makefile has no target {name}"
        if equals and not re.search(rf"(?m)^{name} \?=", makefile):
            return f"the Makefile has no variable {name}"
        if name == "ARGS" and words[0] == "train":
            return problem_with_settings("train", shlex.split(value))
    return None


def problem_with_pip(words: list[str]) -> str | None:
    """The extras of g2rl that are named exist; other packages are not looked up."""
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    for names in re.findall(r"(?:g2rl|\.)\[([\w,-]+)\]", " ".join(words)):
        for name in names.split(","):
            if name not in extras:
                return f"g2rl has no extra {name}"
    return None if "install" in words else f"pip {words} installs nothing"


def problem_with_module(words: list[str]) -> str | None:
    module, *rest = words
    if module in OUTSIDE_MODULES:
        return None
    if module in SETTINGS:
        return problem_with_settings(SETTINGS[module], rest)
    if not exists(module):
        return f"there is no module {module}"
    return problem_with_options(module.replace(".", "/") + ".py", rest)


def problem_with_options(file: str, words: list[str]) -> str | None:
    """A script exists and its source has the options."""
    if not (ROOT / file).is_file():
        return f"there is no {file}"
    source = text_of(file)

    # a comparison of speed/ may leave its command line to the harness that all of them share
    if re.search(r"(?m)^from harness import .*\boptions\b", source):
        source += text_of("speed/harness.py")
    for option in words:
        if option.startswith("--") and f'"{option}"' not in source:
            return f"{file} has no option {option}"
    return None


def problem_with_g2rl(words: list[str]) -> str | None:
    """A command of g2rl by its words: settings are composed, options are looked up."""
    for length in (3, 2, 1):
        name = " ".join(words[:length])
        if name in SETTINGS:
            return problem_with_settings(SETTINGS[name], words[length:])
    scripts = tomllib.loads(text_of("pyproject.toml"))["project"]["scripts"]
    if words[0] not in scripts:
        return f"there is no command {words[0]}"

    # the others read options, somewhere in the command's package
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "g2rl/cli").rglob("*.py")
    )
    is_subcommand = len(words) > 1 and words[0] in ("g2rl", "g2rl-analyze")
    if is_subcommand and f'"{words[1]}"' not in sources:
        return f"{words[0]} has no command {words[1]}"
    for option in words:
        if option.startswith("--") and f'"{option}"' not in sources:
            return f"{words[0]} has no option {option}"
    return None


def problem_with_settings(config: str, words: list[str]) -> str | None:
    """Hydra composes the settings; of a sweep, those of its first arm."""
    # choices of a folder of one's own are made on the page; test_own_code.py trains with such ones
    if "--config-dir" in words:
        return None
    settings: list[str] = []
    for word in expand_combinations(words):
        if not word.startswith("-"):
            settings.append(re.sub(r"\{([^{},:]*),[^{}:]*\}", r"\1", word))
        elif word not in ("--multirun", "--help", "--cfg", "--dry-run"):
            return f"unknown flag {word}"
    if set(MADE_ON_THE_PAGE) & set(settings):
        return None
    settings = [word for word in settings if not PLACEHOLDER.match(word.partition("=")[2])]

    # choices of groups need Hydra; the names of values are then looked up in what it made of them
    arms = [first_arm(word) for word in settings]
    choices = [word for word in arms if is_choice(word)]
    try:
        made = composition(config, tuple(choices))
    except HydraException as error:
        return f"{config} {choices}: {error}"
    for word in arms:
        if word not in choices and not is_known(word.partition("=")[0], made):
            return f"{config} has no setting {word} under {choices}"
    return None


def first_arm(word: str) -> str:
    """A setting as the first arm of a sweep has it: seed=0,1 is seed=0."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def is_choice(word: str) -> bool:
    """Whether a word chooses a file of a group, or needs Hydra for another reason."""
    key = word.partition("=")[0].partition("@")[0]
    return (ROOT / "conf" / key.lstrip("+~")).is_dir() or key.startswith("~")


@cache
def composition(config: str, choices: tuple[str, ...]) -> dict[str, Any]:
    """What Hydra makes of choices, as plain data."""
    return OmegaConf.to_container(composed(*choices, command=config))  # type: ignore[return-value]


def is_known(key: str, made: dict[str, Any]) -> bool:
    """Whether a setting exists; one with a plus sign need not, and Hydra's own are not here."""
    if key.startswith(("+", "hydra.")):
        return True
    node: Any = made
    for part in key.split("."):
        if isinstance(node, str) and node.startswith("${"):
            return True
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str) -> None:
    problems = [problem_with(command) for command in commands_of(page)]
    assert not [problem for problem in problems if problem]


def test_commands_are_found_wherever_they_stand() -> None:
    """The pages have so many of them; a reader that finds none would find no mistake."""
    found = [command for page in PAGES for command in commands_of(page)]
    assert len(found) > 120
    kinds = {command.split()[0] for command in found}
    assert kinds >= {"g2rl-train", "g2rl-eval", "g2rl-analyze", "make", "pip", "python", "torchrun"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("g2rl-train exploration.lamb=1", "lamb"),
        ("g2rl-train exploration=g2lr", "g2lr"),
        ("g2rl-train exploration=none exploration.lam=1", "lam"),
        ("make train ARGS='trainer.step=1'", "step"),
        ("torchrun --nproc-per-node 8 -m g2rl.cli.train paralel=fsdp", "paralel"),
        ("g2rl-eval benchmark.sample=4", "sample"),
        ("g2rl-analyze compare runs --agains none", "--agains"),
        ("g2rl-analyze compar runs", "compar"),
        ("g2rl-grades CASES.jsonl", "g2rl-grades"),
        ("make tests", "tests"),
        ("make train ARG=1", "ARG"),
        ("pip install 'g2rl[vlm]'", "vlm"),
        ("python experiments/minimal_loop.py --signals g2rl", "--signals"),
        ("python experiments/minimal_lop.py", "minimal_lop"),
        ("python -m g2rl.cli.warmstar --out DIR", "warmstar"),
        ("bash experiments/nothing/run.sh", "run.sh"),
    ],
)
def test_a_mistaken_command_is_found(command: str, words: str) -> None:
    assert is_command(command)
    problem = problem_with(command)
    assert problem is not None
    assert words in problem


# --- folders of runs ------------------------------------------------------------------------


def folders_in(command: str) -> set[str]:
    """The folders in runs/ that a command names, without those that stand for the reader's own."""
    named = re.findall(r"(?<![\w/])runs/([\w=.+-]+)", command)
    return {name for name in named if not re.match(r"[A-Z]", name)}


def folders_made_by(command: str) -> set[str]:
    """The folders in runs/ that a command writes: as it says itself, or as Hydra names them."""
    words = shlex.split(command, comments=True)
    for word in words:
        if word.endswith(".sh"):
            return folders_in(text_of(word))
    said = re.search(r"(?:hydra\.(?:run|sweep)\.dir=|--out[ =])(runs/\S+)", command)
    if said is not None:
        return folders_in(said[1])

    # what a training calls its folder, or the sweep that it is
    if "train" not in " ".join(words[:3]):
        return set()
    if words[:2] == ["make", "train"]:
        words = shlex.split(dict(word.split("=", 1) for word in words[2:]).get("ARGS", ""))
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    settings = [word for word in settings if not PLACEHOLDER.match(word.partition("=")[2])]
    try:
        node = composed(*(first_arm(word) for word in settings), with_hydra=True).hydra
        is_sweep = "--multirun" in words or str(node.mode).endswith("MULTIRUN")
        return folders_in(str(node.sweep.dir if is_sweep else node.run.dir))
    except (HydraException, OmegaConfBaseException):
        # a model of the reader's own; what reads its folder fails
        return set()


@pytest.mark.parametrize("page", [page for page in PAGES if "runs/" in text_of(page)])
def test_a_folder_that_a_command_reads_is_written_by_another_of_the_page(page: str) -> None:
    """A study's folder, which is called as the study, may be written by another page."""
    commands = [re.sub(r" {2,}#.*", "", command) for command in commands_of(page)]
    named: set[str] = set()
    made = {"bakeoff", *(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))}
    for command in commands:
        named |= folders_in(command)
        made |= folders_made_by(command)
    assert named <= made


def test_a_folder_is_called_as_hydra_calls_it() -> None:
    assert folders_made_by("g2rl-train exploration=none") == {"tiny-countdown-none-seed0"}
    assert folders_made_by("make train ARGS='seed=3'") == {"tiny-countdown-g2rl-seed3"}
    assert folders_made_by("g2rl-train experiment=signals") == {"signals"}
    [name] = folders_made_by("g2rl-train experiment=detour exploration=none")
    assert name == "detour-detour-none-experiment=detour-seed0"
    assert folders_in("g2rl-analyze compare runs/tiny-seed0 runs/A-seed0 --out runs/NAME") == {
        "tiny-seed0"
    }


# --- blocks of code -------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if "```" in text_of(page)])
def test_every_block_is_of_a_kind_that_is_tried(page: str, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    for language, content in blocks_of(text_of(page)):
        if language == "python":
            try_python(page, content, scope)
        elif language == "json":
            for line in content.splitlines():
                json.loads(line)
        elif language == "yaml":
            try_yaml(content, text_of(page))
        elif language in NOT_CODE:
            assert not commands_in(content), f"{page}: commands without a language: use ```console"
        else:
            assert language in SHELL, f"{page}: no test tries blocks of {language}"


def try_python(page: str, code: str, scope: dict[str, Any]) -> None:
    """Execute a block after those before it; where another test does, its imports exist."""
    if page not in RUN_ELSEWHERE:
        exec(compile(code, page, "exec"), scope)
        return
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("g2rl"):
            for alias in node.names:
                assert exists(f"{node.module}.{alias.name}"), f"{page}: {alias.name}"
    tests = text_of(RUN_ELSEWHERE[page])
    assert page.rpartition("/")[2] in tests, f"{RUN_ELSEWHERE[page]} does not read {page}"


def try_yaml(content: str, text: str) -> None:
    """A choice: it can be read, and builds something in the package or a class of the page."""
    node = yaml.safe_load(content)
    node = node.get("source", node)  # of a task
    place, _, name = node["_target_"].rpartition(".")
    is_on_the_page = f"\nclass {name}" in text and f"{place}.py" in text
    assert node["_target_"].startswith("g2rl.") or is_on_the_page
