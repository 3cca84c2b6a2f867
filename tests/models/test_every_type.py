"""Every type of causal LM that transformers registers, and the table of docs/models.md.

`make test-models` runs this; it takes minutes. Types that are new in another version of
transformers are tried as well, so the table says of which version it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import transformers
from transformers.utils import logging as transformers_logging

from tests.models.measures import Row, measure
from tests.models.zoo import NOT_BUILT, TYPES
from tests.support import ROOT

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table: make test-models -->", "<!-- end of table -->"
ROWS: dict[str, Row] = {}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Two hundred models have much to say about their tiny configurations."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()


@pytest.mark.parametrize("model_type", TYPES)
def test_it_agrees_or_is_refused_by_name(model_type: str) -> None:
    row = ROWS[model_type] = measure(model_type)
    if row.verdict == "not built":
        assert NOT_BUILT.get(model_type, "no reason") in row.reason, row.reason
    if row.verdict in ("refused", "not built"):
        assert row.name in row.reason, "a refusal names the model"
    else:
        assert row.verdict == "agrees", (row.reason, row.gaps)


def test_the_table_of_the_docs_is_written() -> None:
    """After all types were tried; a selection with -k writes nothing."""
    if set(ROWS) != set(TYPES):
        pytest.skip(f"{len(ROWS)} of {len(TYPES)} types were tried in this process")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(table_of([ROWS[name] for name in TYPES]))
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def table_of(rows: list[Row]) -> Iterator[str]:
    """Lines of Markdown: what agrees, what is refused and why, and what is wrong if anything is."""
    agreeing = [row for row in rows if row.verdict == "agrees"]
    refused = [row for row in rows if row.verdict in ("refused", "not built")]
    others = [row for row in rows if not row.is_right]
    counts = f"{len(agreeing)} types agree, {len(refused)} are refused, {len(others)} do neither"
    yield f"transformers {transformers.__version__}: {counts}."
    yield "\n| type | class | largest difference | in |\n|---|---|---|---|"
    for row in agreeing:
        worst = max(row.gaps, key=lambda name: row.gaps[name])
        yield f"| `{row.model_type}` | {row.name} | {row.gaps[worst]:.0e} | {worst} |"
    yield "\n| refused | class | what the refusal says |\n|---|---|---|"
    for row in refused:
        yield f"| `{row.model_type}` | {row.name} | {shortened(row.reason)} |"
    for row in others:
        yield f"\n`{row.model_type}`: {shortened(row.reason)} {row.gaps}"


def shortened(text: str) -> str:
    """The beginning of a message, in one cell."""
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= 160 else text[:157] + "..."
