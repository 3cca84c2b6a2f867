"""What stands in the tables that a run writes: every column with type, unit and meaning.

A `FileSchema` describes one kind of file. The writers take names and types from it, docs/files.md
is made from it, and tests compare it with what commands really write. Those of evaluations and
analyses stand beside their writers. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

TYPES = ("text", "int", "float", "bool", "floats", "texts", "objects", "any")
"""Types of columns: int and float have 64 bits, `floats` and `texts` are lists, `objects` is a list
of records, whose fields the meaning of the column names, and `any` is one of the others."""


@dataclass(slots=True, frozen=True)
class Column:
    """One column of a table, or one key of a line of JSON.

    Args:
        name: as in the file. A word in braces stands for any text: ``observe_{signal}_{quantity}``.
        type: of `TYPES`.
        meaning: one sentence or phrase.
        unit: of the numbers; "" where they have none.
        shape: of the lists, in the axes of `g2rl.types`; "" for single values.
        when: when the column is there; "" for always.
        nullable: what an empty cell means; "" where no cell is empty.
    """

    name: str
    type: str
    meaning: str
    unit: str = ""
    shape: str = ""
    when: str = ""
    nullable: str = ""

    def stands_for(self, name: str) -> bool:
        """Whether this is the description of a column of that name."""
        return _pattern(self.name).fullmatch(name) is not None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Matches every name that a template stands for."""
    # literal text between the words in braces
    parts = re.split(r"\{\w+\}", template)
    return re.compile(".+".join(re.escape(part) for part in parts))


@dataclass(slots=True, frozen=True)
class FileSchema:
    """One kind of file: where it lies, what a row is, and its columns.

    Args:
        place: path from the folder that the command writes, with * for what differs.
        command: that writes it.
        row: what one row or line is.
        columns: in the order of the file.
    """

    place: str
    command: str
    row: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns that are always there, in their order, without stand-ins."""
        always = [column.name for column in self.columns if not column.when]
        return [name for name in always if "{" not in name]

    def column(self, name: str) -> Column | None:
        """The description of a column of a file; None if it has none. Plain names come first."""
        # a name of its own goes before a template that fits too
        for column in sorted(self.columns, key=lambda column: "{" in column.name):
            if column.stands_for(name):
                return column
        return None

    def arrow(self, records: Mapping[str, pyarrow.DataType] | None = None) -> pyarrow.Schema:
        """The columns that are always there, as a schema of parquet.

        Args:
            records: the types of the columns of `objects`, by name.
        """
        import pyarrow

        # a column that is there only sometimes is not part of the type
        known = records or {}
        fields = []
        for column in self.columns:
            if not column.when:
                fields.append((column.name, known.get(column.name) or arrow_type(column)))
        return pyarrow.schema(fields)


def arrow_type(column: Column) -> pyarrow.DataType:
    """The type of a column in parquet.

    Raises:
        ValueError: a type that one word does not decide, such as a list of records.
    """
    import pyarrow

    types = {
        "text": pyarrow.string(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "floats": pyarrow.list_(pyarrow.float64()),
    }
    if column.type not in types:
        raise ValueError(f"column {column.name}: the type {column.type} says no type of parquet")
    return types[column.type]


def word_of(type_of_parquet: pyarrow.DataType) -> str:
    """The word of `TYPES` for a type of parquet; its own name if there is none."""
    import pyarrow

    # texts have two lengths of offsets
    is_of = pyarrow.types
    if is_of.is_string(type_of_parquet) or is_of.is_large_string(type_of_parquet):
        return "text"

    # lists, of records or of single values
    if is_of.is_list(type_of_parquet):
        is_record = is_of.is_struct(type_of_parquet.value_type)
        return "objects" if is_record else f"{word_of(type_of_parquet.value_type)}s"
    return {"int64": "int", "double": "float", "bool": "bool"}.get(
        str(type_of_parquet), str(type_of_parquet)
    )


def differences(schema: FileSchema, types: Iterable[tuple[str, str]]) -> list[str]:
    """What a file holds that its description does not say, or the other way round.

    Args:
        schema: the description.
        types: name and word of `TYPES` of each column of the file; "null" for a column of nothing.

    Returns:
        One sentence each; empty if the description is right.
    """
    # every column of the file has its line
    found: list[str] = []
    seen: list[str] = []
    for name, word in types:
        seen.append(name)
        column = schema.column(name)
        if column is None:
            found.append(f"{schema.place}: the column {name} is not described")
        elif column.type != "any" and word not in (column.type, "null"):
            found.append(f"{schema.place}: {name} is {word}, described as {column.type}")

    # and every line has its column
    for name in schema.names:
        if name not in seen:
            found.append(f"{schema.place}: there is no column {name}")
    return found


# --- responses of training

GROUP_OF = "id of the problem that was asked; the rows of one problem and step are one group"
PLACE_IN_GROUP = "place of the response in its group, 0 to G - 1"
PROMPT = Column("prompt", "text", "what was asked, before the chat template")
COMPLETION = Column("completion", "text", "the response, without special tokens")
ANSWER = Column("answer", "text", "what the verifier read in it", nullable="no answer was read")
CORRECT = Column("correct", "bool", "the verdict")
TOKENS = Column("tokens", "int", "length of the response, its stop token included", "tokens")
FINISH = Column("finish", "text", "stop, or length if it was cut off at the token limit")
FROM_FEATURES = "the signal or an observer uses gradient features (g2rl)"

ROLLOUTS = FileSchema(
    "rollouts/step_*.parquet",
    "g2rl train",
    "one sampled response of the step, group after group",
    (
        Column("problem", "text", GROUP_OF),
        Column("sample", "int", PLACE_IN_GROUP),
        PROMPT,
        Column("gold", "text", "the right answer, as the task gives it"),
        COMPLETION,
        ANSWER,
        CORRECT,
        Column("route", "text", "the rule that decided, or why none did: timeout, killed, ..."),
        TOKENS,
        FINISH,
    ),
)
"""Written every `trainer.tables_every` steps."""

GEOMETRY = FileSchema(
    "geometry/step_*.parquet",
    "g2rl train",
    "one of the same responses, in the same order",
    (
        Column("step", "int", "the training step", "steps"),
        Column("problem", "text", GROUP_OF),
        Column("sample", "int", PLACE_IN_GROUP),
        CORRECT,
        Column("reward", "float", "of the verifier: 1 or -1, or graded", "reward"),
        Column("shaped_reward", "float", "what the signal made of it", "reward"),
        Column("advantage", "float", "what the update used, without shifts of single tokens"),
        Column("tokens", "int", "length of the response", "tokens"),
        Column(
            "entropy",
            "float",
            "mean entropy of the policy over the response's tokens",
            "nats",
            when="every response was scored, which the update leaves out for some signals",
        ),
        # what signals add, each under its own name
        Column("nu", "float", "novelty of Eq. 11, 0 to 1", when="exploration=g2rl"),
        Column("nu_bar", "float", "novelty scaled within its group", when="exploration=g2rl"),
        Column("evol_novelty", "float", "novelty among embeddings", when="exploration=evol"),
        Column(
            "agreement",
            "float",
            "cosine with the mean of the right responses' directions",
            when="exploration=agreement",
        ),
        Column(
            "curiosity", "float", "weighted bonus for a surprising response", when="exploration=cde"
        ),
        Column(
            "diversity",
            "float",
            "semantic diversity that multiplies the reward",
            when="exploration=darling",
        ),
        Column(
            "log_volume",
            "float",
            "what the response adds to the log-volume of its group",
            "nats",
            when="exploration=determinant",
        ),
        Column(
            "outcome_bonus",
            "float",
            "bonus for a rare final answer, added to the advantage with its coefficient",
            when="exploration=outcome",
        ),
        Column("random_weight", "float", "the drawn weight", when="exploration=random_weights"),
        Column(
            "elliptical_bonus",
            "float",
            "bonus for a direction that few responses have",
            when="exploration=repexp",
        ),
        Column(
            "uniform_weight",
            "float",
            "weight of the advantage that evens out right responses",
            when="exploration=ucpo",
        ),
        Column(
            "rarity_weight",
            "float",
            "weight of the advantage by the size of the response's cluster",
            when="exploration=uniqueness",
        ),
        Column(
            "rank",
            "float",
            "place by log-probability in the group, 0 for the least likely; ties share their mean",
            when="exploration=unlikeliness",
        ),
        Column(
            "observe_{signal}_{quantity}",
            "float",
            "the same, of a signal that only observes",
            when="exploration.observe names the signal",
        ),
        Column(
            "{signal}_{quantity}",
            "float",
            "the same, of one of several signals",
            when="exploration=[..., ...]; a signal of your own adds its diagnostics by their names",
        ),
        # what gradient features show
        Column(
            "first_alike",
            "int",
            "place of the first response of the group with the same tokens",
            when=FROM_FEATURES,
        ),
        Column("feature_norm", "float", "length of Φ, a mean over tokens", when=FROM_FEATURES),
        Column(
            "cosine",
            "floats",
            "cosines of Φ with each response of the group, itself included",
            "cosine",
            shape="(G,)",
            when=FROM_FEATURES,
        ),
    ),
)
"""Written beside `ROLLOUTS`."""

PROBE = FileSchema(
    "probe/step_*.parquet",
    "g2rl train",
    "a pair of responses to one held-out problem, before and after training",
    (
        Column("problem", "int", "place of the problem in the first benchmark"),
        Column("first", "int", "place of one response among those to the problem"),
        Column("second", "int", "place of the other one, above `first`"),
        Column("cosine", "float", "of their gradient features Φ", "cosine"),
        Column("pair", "text", "correct-correct, correct-wrong or wrong-wrong"),
        Column("identical", "bool", "whether both have the same tokens"),
    ),
)
"""Written if `trainer.probe_problems` is above 0 and evaluation draws at a temperature above 0."""

RUN_TABLES = {"rollouts": ROLLOUTS, "geometry": GEOMETRY, "probe": PROBE}
"""The tables of a run by their kind, see `g2rl.runs.layout.TABLE_KINDS`."""


def typed_schema(kind: str, columns: Mapping[str, Sequence[Any]]) -> pyarrow.Schema:
    """The schema of parquet for a table of a run, so that a column of nothing has its type too.

    Args:
        kind: of `RUN_TABLES`.
        columns: of the table; the type of one that is not described, or only by a stand-in, is
            that of its values.
    """
    import pyarrow

    fields = []
    for name, values in columns.items():
        known = RUN_TABLES[kind].column(name)
        if known is None or "{" in known.name:
            fields.append(pyarrow.field(name, pyarrow.array(values).type))
        else:
            fields.append(pyarrow.field(name, arrow_type(known)))
    return pyarrow.schema(fields)
