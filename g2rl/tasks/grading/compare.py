r"""Compare two answers part by part, as far as a comparison of expressions can tell.

The trees come from `structure.parse`. Order counts in tuples, not in lists and sets; a list stands
for a tuple when the other side is one. An equation stands for its last member only with a reason
(`stated_values`). What may decide a leaf, an equation or a set is given by the caller: nothing but
strings and exact numbers in the calling process, symbolic mathematics in a worker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from g2rl.tasks.grading.normalize import key
from g2rl.tasks.grading.structure import Part, parse

Known = bool | None
"""True, False, or None when these means cannot tell."""

_COMMANDS_OF_NAMES = (
    r"\\(?!sqrt|frac|ln|log|exp|sum|prod|int|lim|binom|infty|pi\b)[A-Za-z]{1,12}(?![A-Za-z])"
)
# a name of what was asked for: x, f(x), P(A), \angle ABC, x_1, \sin\theta
_INDEX = r"[_^]?\{[A-Za-z0-9, ]{1,20}\}|_\w"
_ARGUMENTS = r"[(\[][A-Za-z0-9,+. -]{1,20}[)\]]"
_NAME = re.compile(rf"(?:[A-Za-z' :|/]|{_COMMANDS_OF_NAMES}|{_INDEX}|{_ARGUMENTS}){{1,60}}")
# a ratio of two segments
_SEGMENTS = re.compile(r"\\frac\{[A-Z]{2,3}\}\{[A-Z]{2,3}\}|[A-Z]{2,3}\s?[/:]\s?[A-Z]{2,3}")
_LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z](?:_\{?\w{1,8}\}?)?")
_CONSTANTS = {r"\pi", r"\frac", r"\sqrt", r"\cdot", r"\times", r"\ln", r"\log", r"\sin", r"\cos"}
_CONSTANTS |= {
    r"\tan",
    r"\left",
    r"\right",
    r"\text",
    r"\binom",
    r"\infty",
    r"\pm",
    "e",
    "i",
    r"\bmod",
    r"\mod",
}
# signs of a set in an expression
_SET_SIGN = re.compile(
    r"\\(?:mathbb|cup|cap|setminus|backslash|emptyset|infty|in|neq|[gl]eq|mid)(?![a-zA-Z])|\\[{}]|[<>]"
)


class Means(Protocol):
    """What decides where structure alone does not. Each method answers None if it cannot tell."""

    is_plain: bool
    """Whether equal strings are equal answers: neither unit nor percent sign sets them apart."""

    def expressions(self, gold: str, answer: str) -> Known:
        """Whether two expressions have one value."""
        ...

    def relations(self, gold: Part, answer: Part) -> Known:
        """Whether two chains of relations have the same solutions."""
        ...

    def sets(self, gold: Part, answer: Part) -> Known:
        """Whether two parts describe the same set of real numbers."""
        ...


def same(gold: Part, answer: Part, means: Means) -> Known:
    """Whether two parts mean the same."""
    # what needs no comparison of structure: one spelling, or two expressions
    if gold.text == answer.text and means.is_plain:
        return True
    if gold.kind == answer.kind == "leaf":
        return means.expressions(gold.text, answer.text)

    # what has a structure of its own
    if "chain" in (gold.kind, answer.kind):
        return _with_relations(gold, answer, means)
    if gold.kind in ("list", "set") and answer.kind in ("list", "set"):
        return _same_members(gold.parts, answer.parts, means)
    if gold.kind == answer.kind == "union" and _same_members(gold.parts, answer.parts, means):
        return True
    if gold.kind == answer.kind == "table":
        return _same_tables(gold, answer, means)

    # in order: tuples, a list for a tuple, a column for a tuple
    gold_sequence, answer_sequence = _sequence(gold), _sequence(answer)
    if gold_sequence is not None and answer_sequence is not None:
        if _same_brackets(gold, answer):
            return _same_sequence(gold_sequence, answer_sequence, means)
        return False
    return _of_different_kinds(gold, answer, means)


def stated_values(chain: Part, is_gold: bool, means: Means) -> tuple[Part, ...] | None:
    r"""What an equation says is the value of something; empty if it says nothing of the kind.

    None if these means cannot tell whether it does.

    A reason to take the last member alone is one of these:

    - the first member is a name ("x = 2+3 = 5", "f(x) = x^2", "x \in [0,1]"), or the last is ("5 =
      x");
    - the last two members are one number ("28 + 32 = 60");
    - in an answer, the first member is an expression in two or more letters, and the last a number
      ("x + y = 5"). An equation in one unknown ("x^2 = 9") does not state that its value is 9.

    Where the last member only approximates (``\sqrt2 \approx 1.41``), the one before it is stated
    as well.
    """
    first, last = chain.parts[0], chain.parts[-1]
    if chain.signs == ("in",):
        return (last,) if _NAME.fullmatch(first.text) else ()

    # inequalities state no value
    if not set(chain.signs) <= {"=", "~"}:
        return ()

    # a name on either side
    is_named = bool(_NAME.fullmatch(first.text)) or _is_tuple_of_names(first)
    if is_named or _SEGMENTS.fullmatch(first.text):
        return (
            (last,) if chain.signs[-1] == "=" or len(chain.parts) == 2 else (chain.parts[-2], last)
        )
    if len(chain.parts) == 2 and _NAME.fullmatch(last.text):
        return (first,)

    # an approximation, a computation, or the value of an expression
    if letters(last.text):
        return ()
    if not letters(chain.parts[-2].text):
        if chain.signs[-1] == "~":
            return chain.parts[-2], last
        is_computed = same(chain.parts[-2], last, means)
        if is_computed is None:
            return None
        return (last,) if is_computed else ()
    return (last,) if not is_gold and len(letters(first.text)) > 1 else ()


def letters(text: str) -> set[str]:
    """The unknowns of an expression, by spelling: letters and Greek commands, without constants."""
    return set(_LETTER.findall(text)) - _CONSTANTS


def _is_tuple_of_names(part: Part) -> bool:
    """Whether a part is such as (a,b)."""
    return part.kind == "tuple" and all(_NAME.fullmatch(member.text) for member in part.parts)


def _with_relations(gold: Part, answer: Part, means: Means) -> Known:
    """Compare where at least one side is a chain of relations."""
    if gold.kind == answer.kind == "chain":
        # the same name on both sides leaves the values
        gold_name, answer_name = key(gold.parts[0].text), key(answer.parts[0].text)
        is_named = gold.signs[0] == answer.signs[0] and set(gold.signs + answer.signs) <= {
            "=",
            "in",
        }
        if is_named and gold_name == answer_name and _NAME.fullmatch(gold.parts[0].text):
            return same(gold.parts[-1], answer.parts[-1], means)
        return means.relations(gold, answer)

    # an equation against a value, else a relation against a set
    chain, other = (gold, answer) if gold.kind == "chain" else (answer, gold)
    values = stated_values(chain, chain is gold, means)
    if values is None:
        return None
    if not values:
        return means.sets(gold, answer) if _may_be_a_set(other) else False

    # of an exact value and its approximation, one has to fit
    verdicts: list[Known] = []
    for value in values:
        pair = (value, other) if chain is gold else (other, value)
        verdicts.append(same(*pair, means))
    return any_known(verdicts)


def _of_different_kinds(gold: Part, answer: Part, means: Means) -> Known:
    """Compare parts of two kinds: sets have many spellings, and one member may stand alone."""
    # a set of one member is that member
    for one, other in ((gold, answer), (answer, gold)):
        if one.kind == "set" and len(one.parts) == 1 and other.kind == "leaf":
            return means.expressions(one.parts[0].text, other.text)

    # a matrix against a computation with matrices, and what may be sets
    if "matrix" in gold.text and "matrix" in answer.text:
        return means.expressions(gold.text, answer.text)
    if _may_be_a_set(gold) and _may_be_a_set(answer):
        return means.sets(gold, answer)
    return False


def _may_be_a_set(part: Part) -> bool:
    """Whether a part may describe a set of numbers: an interval, a union, a condition."""
    return part.kind not in ("leaf", "table") or bool(_SET_SIGN.search(part.text))


def _sequence(part: Part) -> Sequence[Part] | None:
    """The members of a part in order, or None if it has no order that could count."""
    if part.kind in ("tuple", "list"):
        return part.parts
    if part.kind == "table" and all(len(row.parts) == 1 for row in part.parts):
        return [row.parts[0] for row in part.parts]
    return None


def _same_brackets(gold: Part, answer: Part) -> bool:
    """Whether the brackets of two pairs agree: [1,2] is closed and (1,2) is not."""
    both_are_pairs = len(gold.parts) == len(answer.parts) == 2
    if not (both_are_pairs and gold.kind == answer.kind == "tuple"):
        return True
    return gold.signs == answer.signs


def _same_sequence(golds: Sequence[Part], answers: Sequence[Part], means: Means) -> Known:
    """Whether two sequences agree member by member."""
    if len(golds) != len(answers):
        return False
    return all_known(
        [same(gold, answer, means) for gold, answer in zip(golds, answers, strict=True)]
    )


def _same_tables(gold: Part, answer: Part, means: Means) -> Known:
    """Whether two matrices agree cell by cell, or two functions by cases case by case."""
    shape, other_shape = ([len(row.parts) for row in table.parts] for table in (gold, answer))
    if shape != other_shape or gold.signs != answer.signs:
        return False

    # the cases of a function may come in any order
    if gold.signs == ("cases",):
        rows = [parse(",".join(f"({cell.text})" for cell in row.parts)) for row in gold.parts]
        others = [parse(",".join(f"({cell.text})" for cell in row.parts)) for row in answer.parts]
        return _same_members(rows, others, means, ordered_members=True)

    # the rows of a matrix may not
    rows_agree = []
    for row, other in zip(gold.parts, answer.parts, strict=True):
        rows_agree.append(_same_sequence(row.parts, other.parts, means))
    return all_known(rows_agree)


def _same_members(
    golds: Sequence[Part], answers: Sequence[Part], means: Means, ordered_members: bool = False
) -> Known:
    """Whether each member has a partner of its own on the other side, in any order."""
    if len(golds) != len(answers):
        return False
    # each finds a partner among those that are left
    left = list(answers)
    is_certain = True
    for gold in golds:
        verdicts: list[Known] = []
        for answer in left:
            if ordered_members:
                verdicts.append(_same_sequence(gold.parts, answer.parts, means))
            else:
                verdicts.append(same(gold, answer, means))
            if verdicts[-1]:
                break

        # a partner, perhaps one, or certainly none
        if verdicts and verdicts[-1]:
            left.pop(len(verdicts) - 1)
        elif None in verdicts:
            is_certain = False
        else:
            return False
    return True if is_certain else None


def any_known(verdicts: Sequence[Known]) -> Known:
    """True if any is true, else None if any is unknown, else False."""
    if any(verdict is True for verdict in verdicts):
        return True
    return None if None in verdicts else False


def all_known(verdicts: Sequence[Known]) -> Known:
    """False if any is false, else None if any is unknown, else True."""
    if any(verdict is False for verdict in verdicts):
        return False
    return None if None in verdicts else True
