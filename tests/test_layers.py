"""The house rules that a machine can hold: imports go down, functions stay small, code breathes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import g2rl.types
from tests.support import ROOT
from tests.texture import Counts, Function, parts_of, rooms, statement_count, total

PACKAGE = ROOT / "g2rl"
FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = [path for path in FILES if path.name == "__init__.py"]
MODULES = [path for path in FILES if path.name != "__init__.py"]

ROWS = (
    {"integrations"},
    {"cli"},
    {"training", "analysis"},
    {"evaluation"},
    {"runs"},
    {"engines", "exploration"},
    {"formulas", "tasks", "policy"},
    {"types", "world", "hub"},
)
"""From the top down. A package imports only from rows below its own, or from itself."""
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}

FACES = ("g2rl", "g2rl.exploration", "g2rl.policy.lm_head")
"""Packages that offer their names themselves. All others import nothing in `__init__`."""

MOST_STATEMENTS = 25
LONGER_FUNCTIONS: dict[str, str] = {}
"""Functions with more statements, each with the reason why it reads better whole than in parts."""


def name_of(path: Path) -> str:
    """g2rl/tasks/grading/math.py is g2rl.tasks.grading.math; an `__init__` is its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def statements_of(path: Path) -> tuple[ast.AST, ...]:
    """Everything in a file but expressions."""
    found: list[ast.AST] = [tree_of(path)]
    for node in found:
        found.extend(parts_of(node))
    return tuple(found)


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever the statement stands.

    Imports inside a function and under TYPE_CHECKING count too: a reader follows them all the same.
    """
    imported: set[str] = set()
    for node in statements_of(path):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the full name of the module"
            assert node.module is not None
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                imported.add(module if module in NAMES else node.module)
    return frozenset(imported - {"__future__"})


def imports_of_the_house(path: Path) -> set[str]:
    """Those of `imports` that lie in g2rl."""
    return {name for name in imports(path) if name.split(".")[0] == "g2rl"}


def package_of(name: str) -> str:
    """The package at the top of the house: g2rl.tasks.grading.math lies in tasks."""
    return name.split(".")[1]


def test_imports_go_down() -> None:
    faults = []
    for path in FILES[1:]:
        package = package_of(name_of(path))
        assert package in ROW_OF, f"give {package} a row here and in CONTRIBUTING.md"
        for name in sorted(imports_of_the_house(path)):
            place = path.relative_to(ROOT)
            if name == "g2rl":
                faults.append(f"{place}: import the module, not all of g2rl")
                continue
            other = package_of(name)
            if other != package and ROW_OF[other] <= ROW_OF[package]:
                faults.append(f"{place} imports {name}, which does not lie below {package}")
    assert faults == []


def test_contributing_tells_the_same_rows() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Rows")[2]
    block = [line for line in text.splitlines() if line.startswith("    ")]
    assert [set(line.replace(",", " ").split()) for line in block] == list(ROWS)


def circle_through(name: str, below: dict[str, set[str]]) -> list[str]:
    """Follow imports from a module, of which every one leads on, until a module comes again."""
    passed = [name]
    while True:
        following = min(below[passed[-1]])
        if following in passed:
            return [*passed[passed.index(following) :], following]
        passed.append(following)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """An order exists in which every module is read after those that it builds upon."""
    below = {name_of(path): imports_of_the_house(path) for path in FILES}
    while below:
        # A module can be read when nothing that it imports is left unread.
        readable = [name for name, imported in below.items() if not imported]
        assert readable, "a circle: " + " -> ".join(circle_through(min(below), below))
        for name in readable:
            del below[name]
        for imported in below.values():
            imported.difference_update(readable)


def test_init_files_import_nothing() -> None:
    """Grading workers, --help and finished arms of a sweep must not load torch by way of them."""
    for path in PACKAGES:
        if name_of(path) not in FACES:
            assert not imports(path), f"{path} imports, so every use of its package would"


def test_every_file_says_what_it_is_for() -> None:
    for path in FILES:
        for node in statements_of(path):
            if isinstance(node, ast.Module | ast.ClassDef | Function):
                docstring = ast.get_docstring(node, clean=False) or ""
                assert "TODO" not in docstring, f"{path}: an unwritten docstring"
        assert ast.get_docstring(tree_of(path)), f"{path} does not say what it is for"


def test_every_module_is_on_the_map_of_its_package() -> None:
    for path in FILES[1:]:
        place = path.parent.parent if path.name == "__init__.py" else path.parent
        if place != PACKAGE:
            map_of_package = ast.get_docstring(tree_of(place / "__init__.py")) or ""
            name = name_of(path).split(".")[-1]
            assert name in map_of_package, f"{name_of(place / '__init__.py')} does not name {name}"


def test_axis_letters_are_in_the_legend_or_explained_in_their_file() -> None:
    legend = set(re.findall(r"(?<!\S)([A-Z\dd])  \S", g2rl.types.__doc__ or ""))
    assert {"P", "G", "N", "T", "V", "D", "B", "X", "d"} <= legend

    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        suffixes = re.findall(r"\b[a-z][a-z0-9_]*_([A-Z][A-Z1d]{0,4})\b", source)
        words = set(re.findall(r"(?<![\w.])([A-Z])(?![\w.(])", source))
        unknown_letters = set("".join(suffixes)) - legend - words
        assert not unknown_letters, f"{path} does not explain {unknown_letters}"


def test_hydra_lives_in_cli_only() -> None:
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path)}
        if roots & {"hydra", "omegaconf"}:
            assert package_of(name_of(path)) == "cli", f"{path} imports {roots}"


def test_only_the_world_reads_the_ranks_of_a_launcher() -> None:
    for path in FILES:
        if path.name != "world.py":
            text = path.read_text(encoding="utf-8")
            for name in ('"RANK"', '"WORLD_SIZE"', '"LOCAL_RANK"', '"LOCAL_WORLD_SIZE"'):
                assert name not in text, f"{path} reads {name}; g2rl.world does that"


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Every function of a module with its full name: g2rl.world.World.gather."""
    for child in parts_of(node):
        name = prefix
        if isinstance(child, ast.ClassDef | Function):
            name = f"{prefix}.{child.name}"
        if isinstance(child, Function):
            yield name, child
        yield from functions(child, name)


def test_functions_are_small() -> None:
    """Statements are counted, not lines: density is not elegance."""
    longer: dict[str, int] = {}
    for path in FILES:
        for name, function in functions(tree_of(path), name_of(path)):
            if statement_count(function) > MOST_STATEMENTS:
                longer[name] = statement_count(function)

    unexplained = {name: count for name, count in longer.items() if name not in LONGER_FUNCTIONS}
    assert not unexplained, f"more than {MOST_STATEMENTS} statements: {unexplained}"
    assert LONGER_FUNCTIONS.keys() <= longer.keys(), "exceptions that are none any more"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f():\n    'What it does.'\n    return 1", 1),
        ("def f():\n    if a:\n        b()\n    else:\n        c()", 3),
        ("def f():\n    def g():\n        a()\n        b()\n    return g", 2),
        ("def f():\n    try:\n        a()\n    except E:\n        b()", 3),
    ],
)
def test_statements_are_counted_at_any_depth(source: str, count: int) -> None:
    [function] = ast.parse(source).body
    assert isinstance(function, Function)
    assert statement_count(function) == count


@pytest.fixture(scope="module")
def counts() -> Counts:
    return total(FILES)


def test_code_has_room_to_breathe(counts: Counts) -> None:
    """Goals between the figures of nanochat and rlax; see CONTRIBUTING.md. Padding is not room."""
    figures = {
        "blank lines inside functions, %": (counts.blank_share, ">=", 5),
        "comments": (counts.per_thousand_lines(counts.comments), ">=", 50),
        "comprehensions": (counts.per_thousand_lines(counts.comprehensions), "<=", 25),
        "conditional expressions": (counts.per_thousand_lines(counts.conditionals), "<=", 12),
        "fmt: skip": (counts.format_skips, "<=", 15),
        "rooms at the top": (len(rooms(PACKAGE)), "<=", 15),
    }
    missed = []
    for name, (figure, relation, goal) in figures.items():
        is_met = figure >= goal if relation == ">=" else figure <= goal
        if not is_met:
            missed.append(f"{name}: {figure:.1f}, to be {relation} {goal}")
    assert not missed
