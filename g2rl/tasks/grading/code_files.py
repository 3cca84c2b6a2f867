"""Code of the user's own: where its files lie, and how messages name it and what it raises.

Nothing is imported here, neither theirs nor torch.

The user's folders of configuration files come before Python's path: ``statistics.py`` beside the
YAML that names it is meant, and not Python's own file of that name.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

SHOWN_ERROR = 300
"""Characters of an error of the user's own that a message shows."""

_first_places: list[Path] = []
"""Folders of the user's, of the command of this process."""


def look_first_in(places: Sequence[Path]) -> None:
    """From now on, files are looked for in these folders before those on Python's path."""
    _first_places[:] = places


def file_of(name: str) -> Path | None:
    """The file that a function's module is in; None where there is none. Nothing is imported.

    Args:
        name: ``package.module:function`` or ``file.py:function``.
    """
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        return python_file(place)

    # from package to package, as an import would go
    folders: list[str] | None = [*sys.path, os.getcwd()]
    origin: str | None = None
    for part in place.split("."):
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        origin, folders = spec.origin, list(spec.submodule_search_locations or ())

    # modules that are built in have a word in place of a file
    return None if origin is None or not Path(origin).is_file() else Path(origin)


def python_file(place: str) -> Path | None:
    """A file by its path: from the current folder, the user's own ones, or Python's path.

    A configuration may lie in another folder than the current one, beside its reward functions.
    """
    # a path that leads somewhere from here is what it says
    for folder in (Path(), *_first_places, *map(Path, sys.path)):
        path = folder / Path(place).expanduser()
        if path.is_file():
            return path
    return None


def line_of(error: BaseException) -> str:
    """Where in the user's own code something was raised, in words; nothing where that is unknown.

    The deepest frame often lies in a library, which the user cannot mend. So the deepest one counts
    that is neither Python's, nor an installed package's, nor g2rl's.
    """
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = [Path(sysconfig.get_path(kind)) for kind in kinds]
    libraries.append(Path(__file__).parents[2])

    # from the outermost frame to the innermost
    line = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        is_library = any(path.is_relative_to(folder) for folder in libraries)
        if path.is_file() and not is_library:
            line = f", in line {frame.lineno} of {path.name}"
    return line


def words_of(error: BaseException) -> str:
    """What an error of the user's own says, in one line: ``KeyError: 'x'``.

    Its text may be long, empty, of several lines, or raise an error of its own.
    """
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception as second:
        return f"{kind} (whose text cannot be had: {type(second).__name__})"

    # signs that steer a terminal are written out, and only the beginning is looked at
    words = " ".join(text[: 2 * SHOWN_ERROR].split())[:SHOWN_ERROR]
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)
    return f"{kind}: {shown}" if shown else kind


def raised(error: BaseException) -> str:
    """What the user's own code raised: ``raised KeyError: 'x', in line 3 of mine.py``."""
    return f"raised {words_of(error)}{line_of(error)}"


def class_of(thing: Any) -> str:
    """The class of an object with its module, as a ``_target_`` names it."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def is_of_g2rl(thing: Any) -> bool:
    """Whether an object is of a class of g2rl, whose errors say themselves what can be mended."""
    return type(thing).__module__.split(".")[0] == "g2rl"


@contextmanager
def errors_named(
    thing: Any,
    kind: type[Exception],
    who: str,
    after: Callable[[BaseException], str] = lambda error: "",
) -> Iterator[None]:
    """Tell whose error it is that an object of the user's own raises, and where.

    Errors of a class of g2rl pass as they are, and so do a full memory and Ctrl-C.

    Args:
        thing: is called inside.
        kind: of the error that is raised instead.
        who: the thing in words; what it raised follows.
        after: what the message says behind that.

    Raises:
        Exception: of `kind`.
    """
    try:
        yield
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # an exit would end the run without a word
        if is_of_g2rl(thing) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
            raise
        raise kind(f"{who} {raised(error)}{after(error)}") from error
