r"""Equations, inequalities and sets of real numbers, compared by their solutions (with sympy).

Nothing is claimed that was not found: two relations are equal when they are about the same unknowns
and their solutions are shown to be the same. Call this only in a worker that can be killed.
"""

from __future__ import annotations

import itertools
from typing import Any

from g2rl.tasks.grading.structure import Part, parse, split
from g2rl.tasks.grading.symbolic import Expression, UnreadableError, expression, ratio, same_values

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_DIFFERENCE = {r"\setminus", r"\backslash"}
_NUMBER_SETS = {r"\mathbb{R}": "Reals", r"\R": "Reals", r"\mathbb{Z}": "Integers"}
_NUMBER_SETS |= {r"\mathbb{N}": "Naturals", r"\mathbb{Q}": "Rationals"}

Relation = tuple[Expression, str, Expression]


def same_relations(gold: Part, answer: Part) -> bool:
    """Whether two chains of relations have the same solutions."""
    if "in" in gold.signs + answer.signs:
        return same_sets(gold, answer)
    golds, answers = _relations(gold), _relations(answer)
    if len(golds) != len(answers):
        return False if _has_equation(gold) or _has_equation(answer) else same_sets(gold, answer)

    # each relation of one chain must be one of the other's
    left = list(answers)
    for one in golds:
        partner = next((other for other in left if _same_relation(one, other)), None)
        if partner is None:
            break
        left.remove(partner)
    if not left:
        return True
    if _has_equation(gold) or _has_equation(answer):
        return False
    return same_sets(gold, answer)


def same_sets(gold: Part, answer: Part) -> bool:
    """Whether two parts describe one set of real numbers, about one unknown if both name one."""
    from sympy import S

    # both sets, and the unknowns that they are about
    gold_names: set[str] = set()
    answer_names: set[str] = set()
    try:
        left, right = as_set(gold, gold_names), as_set(answer, answer_names)
    except (UnreadableError, NotImplementedError, ValueError, TypeError):
        return False
    if gold_names and answer_names and gold_names != answer_names:
        return False
    is_stated = r"\emptyset" in (gold.text, answer.text)
    if left == S.EmptySet and not is_stated:
        return False  # conditions that nothing satisfies are not therefore the same answer
    if left == right:
        return True

    # interval by interval, because ends may be spelt in many ways
    pieces, others = _pieces(left), _pieces(right)
    if len(pieces) != len(others):
        return False
    return all(_same_piece(one, other) for one, other in zip(pieces, others, strict=True))


def as_set(part: Part, names: set[str]) -> Any:
    """The set of real numbers that a part describes; the unknown that it names is added to `names`.

    Raises:
        ValueError: it describes none that can be found.
    """
    from sympy import FiniteSet, Intersection, Interval, S, Union

    # an interval, a list of values, a condition, a name
    if part.kind == "tuple" and len(part.parts) == 2:
        ends = [expression(end.text).value for end in part.parts]
        return Interval(*ends, left_open=part.signs[0] == "(", right_open=part.signs[1] == ")")
    if part.kind == "set":
        return FiniteSet(*[expression(member.text).value for member in part.parts])
    if part.kind == "chain":
        return _solutions(part, names)
    if part.kind == "leaf":
        return _named_set(part, names)

    # several sets; a comma means "and" unless that leaves nothing
    members = [as_set(member, names) for member in part.parts]
    if part.kind in ("union", "or"):
        return Union(*members)
    if part.kind in ("and", "list"):
        common = Intersection(*members)
        if part.kind == "list" and common == S.EmptySet:
            return Union(*members)
        return common
    raise ValueError(f"no set: {part.kind}")


def _named_set(part: Part, names: set[str]) -> Any:
    """The set that a leaf names: the reals, the empty set, a difference, a single value."""
    from sympy import Complement, FiniteSet, S

    # a difference of two sets
    pieces, _ = split(part.text, _DIFFERENCE)
    if len(pieces) == 2:
        return Complement(as_set(parse(pieces[0]), names), as_set(parse(pieces[1]), names))

    # a set that has a name
    text = part.text.replace(" ", "")
    if text in _NUMBER_SETS:
        return getattr(S, _NUMBER_SETS[text])
    if text == r"\emptyset":
        return S.EmptySet

    # a single number
    value = expression(part.text).value
    if value.free_symbols:
        raise ValueError("an expression with unknowns is no set")
    return FiniteSet(value)


def _solutions(chain: Part, names: set[str]) -> Any:
    """The real solutions of a chain of relations in one unknown.

    Raises:
        ValueError: there are several unknowns, or none.
    """
    from sympy import Intersection

    # a chain holds where all of its relations hold
    sets = []
    for (left, right), sign in zip(itertools.pairwise(chain.parts), chain.signs, strict=True):
        if sign == "in":
            names.add(left.text.replace(" ", ""))
            sets.append(as_set(right, set()))
        else:
            sets.append(_solved((expression(left.text), sign, expression(right.text)), names))
    return Intersection(*sets)


def _solved(relation: Relation, names: set[str]) -> Any:
    """The real numbers that satisfy one relation in one unknown."""
    from sympy import Ge, Gt, Le, Lt, Ne, S, Symbol, solveset
    from sympy.solvers.inequalities import solve_univariate_inequality

    # the unknown, which stands for real numbers here
    left, sign, right = relation
    symbols = left.value.free_symbols | right.value.free_symbols
    if len(symbols) != 1:
        raise ValueError("a set of numbers needs one unknown")
    unknown = symbols.pop()
    names.add(unknown.name)
    real = Symbol(unknown.name, real=True)
    sides = [side.value.subs(unknown, real) for side in (left, right)]

    # equations, what they leave out, inequalities
    if sign == "=":
        return solveset(sides[0] - sides[1], real, S.Reals)
    classes = {"<": Lt, ">": Gt, "<=": Le, ">=": Ge, "!=": Ne}
    condition = classes[sign](*sides)
    if sign == "!=":
        return S.Reals - solveset(sides[0] - sides[1], real, S.Reals)
    return solve_univariate_inequality(condition, real, relational=False)


def _pieces(numbers: Any) -> list[Any]:
    """The intervals and single points of a set, from left to right."""
    from sympy import FiniteSet, Interval, Union

    # a single point is an interval of length 0
    pieces: list[Any] = []
    for part in numbers.args if isinstance(numbers, Union) else [numbers]:
        if isinstance(part, FiniteSet):
            pieces += [Interval(value, value) for value in part.args]
        else:
            pieces.append(part)
    return sorted(
        pieces,
        key=lambda piece: float(piece.inf) if isinstance(piece, Interval | FiniteSet) else 0.0,
    )


def _same_piece(one: Any, other: Any) -> bool:
    """Whether two intervals have the same ends, both open or both closed there."""
    from sympy import Interval

    # equal pieces are often written alike, which is cheap to see
    if one == other:
        return True
    if not isinstance(one, Interval) or not isinstance(other, Interval):
        return False
    if (one.left_open, one.right_open) != (other.left_open, other.right_open):
        return False
    return same_values(one.start, other.start) and same_values(one.end, other.end)


def _relations(chain: Part) -> list[Relation]:
    """The relations of a chain, two members each."""
    found = []
    for (left, right), sign in zip(itertools.pairwise(chain.parts), chain.signs, strict=True):
        found.append((expression(left.text), sign.replace("~", "="), expression(right.text)))
    return found


def _has_equation(chain: Part) -> bool:
    """Whether a chain has a sign of equality."""
    return "=" in chain.signs or "~" in chain.signs


def _same_relation(gold: Relation, answer: Relation) -> bool:
    """Whether two relations have the same solutions, as far as that can be found."""
    # they must be about the same unknowns
    gold_left, gold_sign, gold_right = gold
    left, sign, right = answer
    is_decimal = any(side.has_decimal for side in (gold_left, gold_right, left, right))
    unknowns = gold_left.value.free_symbols | gold_right.value.free_symbols
    if unknowns != left.value.free_symbols | right.value.free_symbols:
        return False

    # the same sides, or exchanged
    if gold_sign == sign and _same_pair(gold, answer, is_decimal):
        return True
    if gold_sign == _FLIPPED[sign] and _same_pair(gold, (right, sign, left), is_decimal):
        return True
    if not unknowns:
        return False

    # one side's difference is a multiple of the other's
    factor = ratio(gold_left.value - gold_right.value, left.value - right.value, is_decimal)
    if factor is not None:
        # a negative factor turns an inequality round
        if sign in "=!=":
            return gold_sign == sign
        if abs(factor.imag) == 0:
            return gold_sign == (sign if factor.real > 0 else _FLIPPED[sign])
    return gold_sign == sign == "=" and _same_zeros(gold, answer)


def _same_pair(gold: Relation, answer: Relation, is_decimal: bool) -> bool:
    """Whether both left sides have one value, and both right sides."""
    return same_values(gold[0].value, answer[0].value, is_decimal) and same_values(
        gold[2].value, answer[2].value, is_decimal
    )


def _same_zeros(gold: Relation, answer: Relation) -> bool:
    """Whether two equations are polynomials (over something) with the same factors."""
    from sympy import Poly, PolynomialError, fraction, together

    polynomials = []
    for left, _, right in (gold, answer):
        # a zero of the denominator is no solution, so it may not be one of the numerator
        numerator, denominator = fraction(together(left.value - right.value))
        try:
            polynomial = Poly(numerator)
            if (
                polynomial.is_zero
                or polynomial.gcd(Poly(denominator, *polynomial.gens)).total_degree() > 0
            ):
                return False
            polynomials.append(polynomial.sqf_part().monic())
        except PolynomialError:
            return False
    one, other = polynomials
    return bool(one.gens == other.gens and one == other)
