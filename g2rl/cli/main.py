"""g2rl: one command for all; `g2rl train` is `g2rl-train`, and so on.

Only the chosen command is imported, so that `g2rl --help` is quick, and Ctrl-C is answered in one
line from here on. So the scripts of pyproject.toml start here too, and not in the modules of their
commands, which import Hydra.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from g2rl.cli.ctrl_c import quiet_ctrl_c

COMMANDS = {
    "train": ("g2rl.cli.train", "train a policy, or make a sweep of runs"),
    "eval": ("g2rl.cli.evaluate", "pass@k and maj@k of a run, a checkpoint or any model"),
    "analyze": ("g2rl.cli.analyze", "cosines of gradient features, and comparisons of runs"),
    "grade": ("g2rl.cli.grade", "grade a file of answers"),
    "report": ("g2rl.cli.report", "one HTML page about a run or several"),
    "export": ("g2rl.cli.export", "a checkpoint as a Hugging Face folder with a model card"),
    "generate": ("g2rl.cli.generate", "print responses of a run's policy with their verdicts"),
    "bench": ("g2rl.cli.bench", "the bake-off, and a row of your own in it"),
}
"""By the word behind g2rl: the module whose `main` is the command, and what it does."""
WITH_SETTINGS = {"train": "g2rl-train", "eval": "g2rl-eval"}
"""Commands whose settings Hydra completes in a shell, and the name under which it does."""

BASH = """# g2rl in bash: eval "$(g2rl completion bash)"
_g2rl() {
  local command="${COMP_WORDS[1]}" rest
  if [ "$COMP_CWORD" -le 1 ]; then
    COMPREPLY=($(compgen -W "%(commands)s --help --version" -- "$command"))
    return
  fi
  rest="${COMP_LINE#*"$command"}"
  case "$command" in
%(cases)s
    *) COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")) ;;
  esac
}
complete -o nospace -o default -F _g2rl g2rl
"""
CASE = """    %(word)s) COMPREPLY=($(COMP_LINE="%(name)s$rest" %(name)s -sc query=bash)) ;;"""


# --- what pyproject.toml names; each imports its own command only


def train() -> int | None:
    """Entry point of `g2rl-train`."""
    return start("train")


def evaluate() -> int | None:
    """Entry point of `g2rl-eval`."""
    return start("eval")


def analyze() -> int | None:
    """Entry point of `g2rl-analyze`."""
    return start("analyze")


def grade() -> int | None:
    """Entry point of `g2rl-grade`."""
    return start("grade")


def report() -> int | None:
    """Entry point of `g2rl-report`."""
    return start("report")


def bench() -> int | None:
    """Entry point of `g2rl-bench`."""
    return start("bench")


def export() -> int | None:
    """Entry point of `g2rl-export`."""
    return start("export")


def generate() -> int | None:
    """Entry point of `g2rl-generate`."""
    return start("generate")


def start(word: str) -> int | None:
    """Import a command and run it; returns its exit code."""
    # the import is what takes the first second
    with quiet_ctrl_c():
        command: Callable[[], int | None] = importlib.import_module(COMMANDS[word][0]).main
        return command()


# --- the one command for all


def main() -> None:
    """Entry point of `g2rl`: the first word chooses the command, the rest is its own."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""

    # what the dispatcher says itself, and what it hands over
    if word in ("-h", "--help"):
        print(help_text())
    elif word == "--version":
        tell_versions()
    elif word == "completion":
        print(completion_for(sys.argv[2:]), end="")
    elif word in commands():
        hand_over(word)
    else:
        print(f"error: {unknown(word)}" if word else help_text(), file=sys.stderr)
        raise SystemExit(2)


def tell_versions() -> None:
    """Print what `g2rl --version` does."""
    with quiet_ctrl_c():
        # Hydra comes with it
        from g2rl.cli.config.launch import version_line

        print(version_line())


def commands() -> dict[str, str]:
    """What each of the commands does."""
    return {word: text for word, (_, text) in COMMANDS.items()}


def hand_over(word: str) -> None:
    """Run a command on the words behind its name, and end as it ends."""
    sys.argv = [f"g2rl {word}", *sys.argv[2:]]
    code = start(word)
    if code:
        raise SystemExit(code)


def help_text() -> str:
    """What `g2rl --help` prints."""
    lines = ["usage: g2rl COMMAND ...", ""]
    for word, text in commands().items():
        lines.append(f"  {word:<10}{text}")
    lines += [
        "",
        "  g2rl COMMAND --help     says more",
        "  g2rl --version          versions of g2rl and of what its results depend on",
        '  eval "$(g2rl completion bash)"   completes commands and settings in bash',
    ]
    return "\n".join(lines)


def completion_for(words: Sequence[str]) -> str:
    """The script for the shell that was named; bash is the one there is.

    Raises:
        SystemExit: with 2 for another shell, and what completes settings there.
    """
    shell = words[0] if words else "bash"
    if shell == "bash":
        return completion()
    hints = {
        "fish": "g2rl-train -sc install=fish | source",
        "zsh": 'autoload -Uz bashcompinit && bashcompinit && eval "$(g2rl-train -sc install=bash)"',
    }
    said = f"error: g2rl completes its commands in bash only, not in {shell!r}"
    if shell in hints:
        said += f"; Hydra completes the settings of g2rl-train and g2rl-eval: {hints[shell]}"
    print(said, file=sys.stderr)
    raise SystemExit(2)


def completion() -> str:
    """A script for bash; Hydra completes settings, this completes the commands before them."""
    cases = [CASE % {"word": word, "name": name} for word, name in WITH_SETTINGS.items()]
    return BASH % {"commands": " ".join(commands()), "cases": "\n".join(cases)}


def unknown(word: str) -> str:
    """What to say of a first word that is no command."""
    # the nearest command, or a setting that was meant for training
    near = difflib.get_close_matches(word, commands(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if "=" in word:
        hint = f"; did you mean g2rl train {word}?"
    return f"g2rl has no command {word!r}: there are {', '.join(commands())}{hint}"


if __name__ == "__main__":
    main()
