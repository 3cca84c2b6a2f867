"""Read the rows of a data set from the hub or from a local file, and fields of the rows.

source="HuggingFaceH4/MATH-500", split="test"    hub id (needs network or a cached copy)
source="data/math500.jsonl"                      local .jsonl, .json (a list), .csv or .parquet

Errors name a row by its line, or by its number from 1 where there are none; see `places`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from g2rl.hub import asked_once, unreachable
from g2rl.tasks.places import Origin, at_line, not_utf8, place_of, why_no

LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
ID_COLUMNS = ("unique_id", "question_id", "Record ID", "id")
"""Columns that name a row in published data sets. The first of them that a row has is taken."""


NO_GOLD = ("", "none", "nan", "null", "n/a")
"""Texts (in small letters) that say that a row has no gold answer."""
MOST_LEVELS = 100
"""Lists and objects that may stand inside one another in a row; Python itself ends near 1,000, and
what is done with rows later takes several of its levels for each."""
TOO_DEEP = f"lists and objects nest more than {MOST_LEVELS} deep; make the row flatter or remove it"
"""What is said of a row that nests deeper."""
LARGEST_EXACT = 2.0**53
"""Floats of this size and above do not tell neighbouring integers apart."""


class DataError(ValueError):
    """A data set could not be read as asked; the message names the place and what to do."""


class Rows(list[dict[str, Any]]):
    """The rows of a file or a data set.

    Args:
        rows: column to value, for each.
        lines: in which line each begins, from 1; empty where the rows are not lines of a text.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], lines: Sequence[int] = ()) -> None:
        super().__init__(rows)
        self.lines = lines

    def origin(self, source: str) -> Origin:
        """Where they come from, as errors name it: a file without its folder."""
        return Origin(Path(source).name if is_local(source) else source, self.lines)


def is_local(source: str) -> bool:
    """Whether a source is meant as a file on disk rather than a hub id."""
    return Path(source).suffix in LOCAL_SUFFIXES or Path(source).exists()


def locate(source: str, data_dir: str | None = None, local_name: str | None = None) -> str:
    """Where to read from: `source`, or a local copy of it.

    Args:
        source: hub id or file.
        data_dir: a folder of local copies.
        local_name: the file in it, or a pattern ("mmlu_pro*.jsonl") that exactly one file matches.
            Without a folder or a name, and where `source` is a file, `source` itself is read.

    Raises:
        DataError: the folder or the file is missing, or several files match.
    """
    if data_dir is None or local_name is None or is_local(source):
        return source
    folder = Path(data_dir).expanduser()
    absent = why_no("folder", folder)
    if absent:
        raise DataError(f"data_dir={data_dir}: {absent}")

    # exactly one file must match
    paths = sorted(folder.glob(local_name))
    if len(paths) > 1:
        raise DataError(
            f"{folder} holds several of {local_name}: {', '.join(p.name for p in paths)}; keep one"
        )
    if not paths:
        raise DataError(
            f"{folder} holds no {local_name}: put a local copy of {source} there, or set the "
            "data_dir of this data set to null to read it from the hub"
        )
    return str(paths[0])


def first_column(
    row: Mapping[str, Any], names: Sequence[str], source: object, number: int, setting: str = ""
) -> Any:
    """The field of the first of `names` that the row has.

    Raises:
        DataError: the row has none of them; the message lists its columns.
    """
    for name in names:
        if name in row:
            return row[name]
    return column(row, " or ".join(names), source, number, setting)


def row_id(row: Mapping[str, Any], number: int) -> str:
    """What names a row in files: its published id if it has one, else its number from 0."""
    for name in ID_COLUMNS:
        if row.get(name) is not None:
            return str(row[name])
    return str(number)


def read_rows(
    source: str, split: str = "train", config: str | None = None, revision: str | None = None
) -> Rows:
    """All rows of a local file or of one split on the hub.

    Raises:
        DataError: the source is missing, unreadable or empty, or a row of it is malformed.
    """
    if is_local(source):
        rows = _read_file(Path(source).expanduser())
    else:
        rows = _read_hub(source, split, config, revision)
    if not rows:
        raise DataError(f"{source} holds no rows")
    return rows


def _read_file(path: Path) -> Rows:
    """The rows of a file on disk. Whatever is wrong with it is raised as a `DataError`."""
    absent = why_no("file", path)
    if absent:
        raise DataError(f"{absent}: the source of rows names a file")
    try:
        return _parse_file(path)
    except DataError:
        raise
    except RecursionError as error:
        raise DataError(f"{path}: {TOO_DEEP}") from error
    except (ValueError, OSError) as error:
        # a text says in which line it is none
        told = not_utf8(path) if isinstance(error, UnicodeDecodeError) else None
        if told is not None:
            raise DataError(told) from error

        # from pyarrow or json
        raise DataError(
            f"{path} cannot be read as {path.suffix[1:]}: {error}; make it again or name another "
            "file"
        ) from error


def _parse_file(path: Path) -> Rows:
    """The rows of a parquet, CSV, JSON or JSON-lines file."""
    if path.suffix == ".parquet":
        import pandas

        return Rows(pandas.read_parquet(path).to_dict("records"))
    if path.suffix == ".csv":
        return _parse_csv(path)

    # .json: a list of objects
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(rows, list):
            raise DataError(
                f"{path}: expected a list of objects; for one object a line name the file .jsonl"
            )
        for number, row in enumerate(rows):
            _refuse_other_than_object(row, place_of(path, number))
        return Rows(rows)
    return _parse_json_lines(path)


def _parse_json_lines(path: Path) -> Rows:
    """The rows of a file with one object a line; empty lines are passed over."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            # whole numbers may be too long for Python
            try:
                row = json.loads(text)
            except RecursionError as error:
                raise DataError(f"{at_line(path, line)}: {TOO_DEEP}") from error
            except ValueError as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise DataError(
                    f"{at_line(path, line)}: not JSON ({reason}); mend or remove the line"
                ) from error
            _refuse_other_than_object(row, at_line(path, line))
            rows.append(row)
            lines.append(line)
    return Rows(rows, lines)


def _refuse_other_than_object(row: Any, place: str) -> None:
    """Refuse a row that is no object, or nests too deep; `place` says where it stands."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected an object, found {type(row).__name__}")

    # one level after the other, because a recursion would end where Python's does
    level: list[Any] = list(row.values())
    for _ in range(MOST_LEVELS + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict | list):
                inner.extend(value.values() if isinstance(value, dict) else value)
        level = inner
        if not level:
            return
    raise DataError(f"{place}: {TOO_DEEP}")


def _parse_csv(path: Path) -> Rows:
    """The rows of a CSV file whose first line names the columns; every value is text."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", restval=None, strict=True)
        for row in _named_by_line(reader, path):
            # where the row begins: values in quotes may hold line ends
            inside = sum(str(value).count("\n") for value in row.values())
            lines.append(reader.line_num - inside)

            # too many values stand under "", too few leave None
            if "" in row or None in row.values():
                raise DataError(
                    f"{at_line(path, lines[-1])}: the first line names "
                    f"{len(reader.fieldnames or ())} columns, and the row has another number of "
                    "values; mend the row"
                )
            rows.append(row)
    return Rows(rows, lines)


def _named_by_line(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str | Any, str | Any]]:
    """The rows of a CSV file; quotes that do not close, and the like, are told with the line."""
    try:
        yield from reader
    except csv.Error as error:
        # the row begins behind the last one that could be read
        place = at_line(path, reader.line_num + 1)
        raise DataError(f"{place}: not CSV ({error}); mend or remove the row") from error


def _read_hub(source: str, split: str, config: str | None, revision: str | None) -> Rows:
    """The rows of one split of a data set on the hub, or of a cached copy of it."""
    from datasets import load_dataset

    try:
        with asked_once():
            data = load_dataset(source, config, split=split, revision=revision)
    except Exception as error:  # datasets and huggingface_hub raise many unrelated types
        why = unreachable(source, error) or f"{type(error).__name__}: {error}"
        raise DataError(
            f"cannot load {source} (split {split}) from the hub: {why}. "
            "Without network give a local copy: data_dir=FOLDER that holds it, or a file as "
            "task.source.source=FILE or benchmark.source=FILE, whichever names it"
        ) from error
    return Rows(dict(row) for row in data)


def refuse_twins(ids: Sequence[str], source: object) -> None:
    """Make sure that no two rows share an id, because it names a problem in every file.

    Raises:
        DataError: two rows do; the message names the first id that comes again.
    """
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise DataError(
                f"{source}: two rows share the id {id_!r}; remove one, or give it an id of its own"
            )
        seen.add(id_)


def text_of(value: Any, name: str, source: object, number: int) -> str:
    """A field that must be text, because anything else would make a prompt such as "None".

    Raises:
        DataError: the field is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{place_of(source, number)}: {name} holds no text ({value!r}); mend or remove the row"
        )
    return value


def gold_text(value: Any, name: str, source: object, number: int) -> str:
    """A gold answer as text; an empty string where the row has none (null, NaN).

    Raises:
        DataError: the value is no answer: a list, an object, a truth value, an infinite number, or
            a number that its file has rounded.
    """
    # nothing, as JSON and as tables write it
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        text = value.strip()
        return "" if text.casefold() in NO_GOLD else text

    # numpy's numbers as Python's
    value = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(
            f"{place_of(source, number)}: {name} holds {value!r}, a {type(value).__name__}; a gold "
            "answer is text or a number: write it as text, or remove the row"
        )
    if isinstance(value, int):
        return str(value)

    # 27.0 is 27, as in published AMC files; beyond 2^53 a float may stand for its neighbours
    if not math.isfinite(value) or abs(value) >= LARGEST_EXACT:
        raise DataError(
            f"{place_of(source, number)}: {name} holds {value!r}, which is no exact number; "
            "write it as text"
        )
    return str(int(value)) if value.is_integer() else repr(value)


def column(
    row: Mapping[str, Any], name: str, source: object, number: int, setting: str = ""
) -> Any:
    """One field of a row.

    Args:
        row: column to value.
        name: of the column.
        source, number: of the row, for the message.
        setting: which names the column, where the user can choose it.

    Raises:
        DataError: the column is missing; the message lists those that exist and says what chooses
            another.
    """
    if name in row:
        return row[name]
    mend = f"; {setting}=NAME (of task.source or benchmark) chooses another" if setting else ""
    raise DataError(f"{place_of(source, number)}: no column {name!r}; it has {sorted(row)}{mend}")
