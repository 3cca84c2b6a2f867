"""What the documentation names exists: modules, definitions, files and links."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "experiments").glob("*/README.md"),
        ROOT / "notebooks" / "README.md",
    ]
)
FOLDERS = "conf|docs|experiments|g2rl|notebooks|speed|tests"
FILE = re.compile(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./*-]*\w/?)")
MODULE = re.compile(r"(?<![\w./])(g2rl(?:\.\w+)+)")
LINK = re.compile(r"\]\(((?!https?:)[^)#\s]+)")
MADE_UP = ("NAME", "brevity", "...")
"""Parts of names that stand for others: conf/task/NAME.yaml, the README's signal of one's own."""


def names(path: Path) -> set[str]:
    """Definitions and constants at the top of a module, and NAME.METHOD of its classes."""
    known_names: set[str] = set()
    body = list(ast.parse(path.read_text(encoding="utf-8")).body)

    # names that are imported at their first use stand under TYPE_CHECKING
    for node in body:
        if isinstance(node, ast.If):
            body += node.body
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            known_names.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            known_names |= {f"{node.name}.{member.name}" for member in members}
        if isinstance(node, ast.ImportFrom):
            known_names |= {alias.asname or alias.name for alias in node.names}
        targets = node.targets if isinstance(node, ast.Assign) else []
        known_names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return known_names


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or something that a module defines."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.is_file():
            rest = ".".join(parts[count:])
            return not rest or rest in names(module)
    return False


def text_of(page: Path) -> str:
    """A page without what speaks of the past: the changelog's column of old names."""
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        text = re.sub(r"(?m)^\| [^|]*\|", "|", text)
    return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_everything_named_exists(page: Path) -> None:
    text = text_of(page)
    missing = []
    for name in MODULE.findall(text):
        if not any(word in name for word in MADE_UP) and not exists(name):
            missing.append(name)
    for name in FILE.findall(text):
        is_made_up = any(word in name for word in MADE_UP)
        if not is_made_up and not any(ROOT.glob(name.rstrip("/"))):
            missing.append(name)
    for target in LINK.findall(text):
        if not (page.parent / target).exists():
            missing.append(target)
    assert not missing


def test_the_table_of_moves_is_true() -> None:
    """What has moved is no longer where it was."""
    table = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Moved")[2]
    still_used = ("g2rl.policy.Policy", "g2rl.analysis.fidelity")
    still_used += ("g2rl.report", "g2rl.evaluate")  # other things have these names today
    old_names: list[str] = []
    for row in re.findall(r"(?m)^\| (`[^|]*)\|", table):
        old_names += MODULE.findall(row)
    assert len(old_names) > 60
    for name in old_names:
        if name not in still_used and "NAME" not in name:
            assert not exists(name), f"{name} exists"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_of_links_exist(page: Path) -> None:
    """LINK.md#a-heading: the page has that heading."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text_of(page)):
        other = page.parent / target if target else page
        if not target.startswith("http"):
            headings = re.findall(r"(?m)^#+ (.*)$", other.read_text(encoding="utf-8"))
            assert anchor in {slug(heading) for heading in headings}, f"{target}#{anchor}"


def slug(heading: str) -> str:
    """The anchor that a Markdown reader makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_picture_of_the_tour_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script runs; its stages are packages of g2rl, and those of the page and of the step."""
    spec = importlib.util.spec_from_file_location("tour", ROOT / "docs" / "figures" / "tour.py")
    assert spec is not None
    assert spec.loader is not None
    tour = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tour)
    for _, _, package, _ in tour.STAGES.values():
        assert (ROOT / "g2rl" / package / "__init__.py").is_file()

    stages = {str(number): name for number, name in enumerate(tour.STAGES, start=1)}
    page = text_of(ROOT / "docs" / "tour.md")
    assert dict(re.findall(r"(?m)^\| (\d) \| ([^|]+) \|", page)) == stages
    code = text_of(ROOT / "g2rl" / "training" / "step.py")
    assert ", ".join(stages.values()) in " ".join(code.split('"""')[1].split())
    comments = " ".join(re.findall(r"(?m)^ *# (\d\. .*)$", code))
    numbered = re.findall(r"(\d)\. (\w+)", comments)
    assert {number for number, _ in numbered} == set(stages)
    assert all(stages[number] == name for number, name in numbered)

    out = tmp_path / "tour.png"
    monkeypatch.setattr(sys, "argv", ["tour.py", str(out)])
    tour.main()
    assert out.stat().st_size > 10_000
