"""The API reference: a page for each package of g2rl, in the order of CONTRIBUTING's rows.

    python -m docs.site.api OUT      writes OUT/api/*.md

A page shows the map that the package's `__init__` gives, and then leaves every module to
mkdocstrings, which reads docstrings and signatures from the source and imports nothing.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "g2rl"

FIRST = (
    "exploration",
    "formulas",
    "policy",
    "policy.lm_head",
    "tasks",
    "tasks.grading",
    "engines",
    "training",
    "evaluation",
    "analysis",
    "integrations",
    "runs",
)
"""Packages in the order in which a reader is likely to want them; the others follow by name."""

BEHIND_GUIDES = ("---", "search:", "  boost: 0.2", "---", "")
"""The head of every page: a search shows pages that explain before pages that list."""

NOT_SHOWN = ("assets",)
"""Folders of the package without code to read about."""


def packages() -> list[str]:
    """Every package with modules, by its name below g2rl."""
    names = []
    for path in PACKAGE.rglob("__init__.py"):
        name = ".".join(path.parent.relative_to(PACKAGE).parts)
        if name and name.partition(".")[0] not in NOT_SHOWN:
            names.append(name)
    return sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else 99, name))


def modules(folder: Path) -> list[str]:
    """The modules of a package in the order of its map, which is the reading order."""
    map_of_package = docstring(folder / "__init__.py")
    names = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]

    def place(name: str) -> tuple[int, str]:
        found = re.search(rf"(?m)^ *{name}  ", map_of_package)
        return (found.start() if found else len(map_of_package), name)

    return sorted(names, key=place)


def docstring(path: Path) -> str:
    """What a module says about itself."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def package_page(name: str) -> str:
    """The page of a package: its map, then its modules."""
    folder = PACKAGE.joinpath(*name.split("."))
    about, _, rest = docstring(folder / "__init__.py").partition("\n")
    out = [*BEHIND_GUIDES, f"# g2rl.{name}", "", about, ""]
    if rest.strip():
        out += ["```text", rest.strip("\n"), "```", ""]
    for module in modules(folder):
        out += [f"::: g2rl.{name}.{module}", ""]
    return "\n".join(out)


def top_page() -> str:
    """The page of the modules at the top of g2rl, and the list of the others."""
    out = [
        *BEHIND_GUIDES,
        "# API reference",
        "",
        "Made from the docstrings. The letters at the ends of tensor names are axes: their legend",
        "is that of `g2rl.types`, the first module below. For the commands see the",
        "[configuration reference](../configuration/index.md).",
        "",
        "| package | |",
        "|---|---|",
    ]
    for name in packages():
        about = docstring(PACKAGE.joinpath(*name.split("."), "__init__.py")).partition("\n")[0]
        out.append(f"| [`g2rl.{name}`]({name}.md) | {about} |")
    out.append("")

    top = sorted(path.stem for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
    for module in sorted(top, key=lambda name: (name != "types", name)):
        out += [f"::: g2rl.{module}", ""]
    return "\n".join(out)


def write_pages(folder: Path) -> list[tuple[str, str]]:
    """Write all pages into a folder.

    Returns:
        Title and file name of each page, in the order in which they are read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [("Overview", "index.md")]
    (folder / "index.md").write_text(top_page(), encoding="utf-8")
    for name in packages():
        (folder / f"{name}.md").write_text(package_page(name), encoding="utf-8")
        written.append((name, f"{name}.md"))
    return written


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]) / "api")
