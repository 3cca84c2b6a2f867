"""Which strategy of the tiny policy a Countdown response follows; how many solutions were found."""

from __future__ import annotations

import pandas as pd

from g2rl.formulas.estimators import Interval, bootstrap_interval
from g2rl.tasks.countdown_traces import STYLES

OTHER = "other"


def style_of(completion: str) -> str:
    """direct, calc, back or try by a response's first word (`g2rl.tasks.countdown_traces`), else
    other."""
    words = completion.split(maxsplit=1)
    first_word = words[0] if words else ""

    # a direct answer starts with the answer itself, not with the name of its style
    if first_word.startswith("\\boxed{"):
        return "direct"
    if first_word in STYLES and first_word != "direct":
        return first_word
    return OTHER


def style_shares(responses: pd.DataFrame) -> pd.DataFrame:
    """Share of responses in each strategy and the accuracy inside it.

    Args:
        responses: columns problem, style, correct; every problem with the same number of responses.

    Returns:
        Columns style, value, low, high (95 % bootstrap over problems), responses, accuracy (NaN
        where no response has the style); one row a style, also those that do not occur, and "other"
        only if it does.
    """
    rows = []
    for style in (*STYLES, OTHER):
        of_style = responses["style"] == style
        if style == OTHER and not of_style.any():
            continue

        # the share inside each problem
        shares = of_style.groupby(responses["problem"]).mean().to_numpy()
        interval = bootstrap_interval(shares)

        # accuracy over all responses of the style, whichever problem they are of
        accuracy = float("nan")
        if of_style.any():
            accuracy = float(responses.loc[of_style, "correct"].mean())
        rows.append((style, *interval, int(of_style.sum()), accuracy))
    return pd.DataFrame(rows, columns=["style", "value", "low", "high", "responses", "accuracy"])


def distinct_solutions(responses: pd.DataFrame) -> pd.Series:
    """Number of different right answers to each problem, indexed by problem; 0 where none is right.

    The count grows with the number of responses: compare at equal numbers.

    Args:
        responses: columns problem, correct, answer_class: classes of
            `g2rl.evaluation.estimates.answer_classes`, which on Countdown are expressions up to
            commutativity and associativity, so that `2 * 4 + 3` and `3 + 4 * 2` count once. -1 is
            no answer.
    """
    # right answers whose class is known
    right = responses[responses["correct"] & (responses["answer_class"] >= 0)]
    counts = right.groupby("problem")["answer_class"].nunique()

    # problems without a right answer are in no group above
    problems = pd.Index(responses["problem"].unique(), name="problem")
    return counts.reindex(problems, fill_value=0)


def distinct_interval(responses: pd.DataFrame) -> Interval:
    """Mean number of distinct right answers a problem, with its 95 % bootstrap interval over
    problems."""
    return bootstrap_interval(distinct_solutions(responses).to_numpy(dtype=float))
