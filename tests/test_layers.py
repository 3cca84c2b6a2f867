"""The house rules that a machine can hold: imports go down, functions stay small, code has room to
breathe."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.texture import Counts, rooms, statement_count, total

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "g2rl"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]

ROWS = (
    {"cli"},
    {"training", "analysis"},
    {"evaluation"},
    {"runs"},
    {"engines", "exploration"},
    {"formulas", "tasks", "policy"},
    {"types", "world"},
)
"""From the top down; a room imports only from rows below its own, or from itself."""
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}

FACES = ("exploration/__init__.py", "policy/lm_head/__init__.py")
"""Packages that offer their names themselves; all others import nothing in `__init__`."""

MOST_STATEMENTS = 25
LONGER_FUNCTIONS: dict[str, str] = {}
"""Functions with more statements, and why that reads better than parts would."""


def name_of(path: Path) -> str:
    """g2rl/tasks/grading/math.py -> g2rl.tasks.grading.math; a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """Every module of g2rl that a file imports, wherever the statement stands."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                imported.add(module if module in NAMES else node.module)
    return {name for name in imported if name.startswith("g2rl.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative == Path("__init__.py"):
        assert not imports(path), "g2rl/__init__.py imports nothing"
        return
    room = relative.parts[0].removesuffix(".py")
    assert room in ROW_OF, f"give {room} a row in {Path(__file__).name} and in CONTRIBUTING.md"
    for name in imports(path):
        other = name.split(".")[1]
        is_below = other == room or ROW_OF[other] > ROW_OF[room]
        assert is_below, f"{relative} imports {name}, which does not lie below it"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Inside a package too: an order in which modules can be read exists."""
    below = {name_of(path): imports(path) & {name_of(p) for p in MODULES} for path in MODULES}
    while below:
        readable = [name for name, needed in below.items() if not needed & below.keys()]
        assert readable, f"a circle among {sorted(below)}"
        for name in readable:
            del below[name]


def test_contributing_tells_the_same_rows() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Rows")[2]
    block = [line for line in text.splitlines() if line.startswith("    ")]
    rows = [set(line.replace(",", " ").split()) for line in block]
    assert rows == list(ROWS)


def test_packages_are_maps_and_import_nothing() -> None:
    for path in FILES:
        if path.name != "__init__.py":
            continue
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path}: no map"
        if str(path.relative_to(PACKAGE)) not in FACES:
            assert not imports(path), f"{path} imports, so that every use of the package would"


def test_every_module_is_on_the_map_of_its_package() -> None:
    for path in MODULES:
        package = path.parent / "__init__.py"
        if path.parent != PACKAGE:
            map_ = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
            assert path.stem in map_, f"{package.parent.name} does not name {path.stem}"


def test_every_module_says_what_it_is_for() -> None:
    for path in FILES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{path}: no docstring"
        assert "TODO" not in docstring, path


def test_hydra_lives_in_cli_only() -> None:
    for path in FILES:
        if "cli" not in path.relative_to(PACKAGE).parts:
            text = path.read_text(encoding="utf-8")
            for word in ("import hydra", "from hydra", "omegaconf"):
                assert word not in text, f"{path}: {word}"


def test_only_the_world_reads_the_ranks_of_a_launcher() -> None:
    for path in FILES:
        if path.name != "world.py":
            text = path.read_text(encoding="utf-8")
            for name in ('"RANK"', '"WORLD_SIZE"', '"LOCAL_RANK"', '"LOCAL_WORLD_SIZE"'):
                assert name not in text, f"{path} reads {name}; g2rl.world does that"


def functions() -> Iterator[tuple[str, int]]:
    """Every function as FILE:NAME, and its number of statements."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", statement_count(node)


def test_functions_are_small() -> None:
    longer = {name for name, count in functions() if count > MOST_STATEMENTS}
    unexplained = sorted(longer - LONGER_FUNCTIONS.keys())
    assert not unexplained, f"over {MOST_STATEMENTS} statements: {unexplained}"
    assert LONGER_FUNCTIONS.keys() <= longer, "exceptions that are none any more"


@pytest.fixture(scope="module")
def counts() -> Counts:
    return total(FILES)


def test_code_has_room_to_breathe(counts: Counts) -> None:
    """Anchors: nanochat and rlax; see CONTRIBUTING.md. Padding is not room."""
    assert len(rooms(PACKAGE)) <= 15
    assert counts.blank_share >= 5
    assert counts.per_thousand_lines(counts.comments) >= 50
    assert counts.per_thousand_lines(counts.comprehensions) <= 25
    assert counts.per_thousand_lines(counts.conditionals) <= 12
    assert counts.format_skips <= 15
