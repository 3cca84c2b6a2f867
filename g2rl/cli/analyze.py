"""g2rl-analyze: look at the geometry of a policy, join runs, or test the feature against true
gradients."""

from __future__ import annotations

import difflib
import importlib
import sys

COMMANDS = {
    "geometry": "cosines of gradient features of responses to one problem, for any checkpoint (Figure 3)",
    "compare": "finished runs in one table and one figure, with bands over seeds",
    "fidelity": "how well cosines of the features predict cosines of the true gradients",
}
HELP = (
    "usage: g2rl-analyze COMMAND ...\n\n"
    + "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    + "\n\ng2rl-analyze COMMAND --help says more."
)


def main() -> None:
    """Entry point of `g2rl-analyze`: hands the words after the command to its module."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        asked = len(sys.argv) > 1
        print(HELP, file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    word = sys.argv.pop(1)
    if word not in COMMANDS:
        print(f"error: {unknown(word)}", file=sys.stderr)
        raise SystemExit(2)
    # one import only: the others' libraries would slow down --help
    importlib.import_module(f"g2rl.cli.analyze_{word}").main()


def unknown(word: str) -> str:
    """What to say of a first word that is no command."""
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"g2rl-analyze has no command {word!r}: there are {', '.join(COMMANDS)}{hint}"


if __name__ == "__main__":
    main()
