"""Evaluation: invariances of metrics, resuming, grading again, comparing; the engine makes texts
up."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from g2rl.engines.engine import uniforms
from g2rl.evaluation.compare import compare
from g2rl.evaluation.console import EvalReporter
from g2rl.evaluation.estimates import answer_classes, estimate_accuracies
from g2rl.evaluation.evaluate import EVAL_STREAM, evaluate
from g2rl.evaluation.files import (
    KS,
    SAMPLES,
    EvaluationError,
    read_samples,
    verifier_name,
    write_rows,
    write_samples,
)
from g2rl.evaluation.folder import (
    Evaluation,
    regrade,
)
from g2rl.evaluation.tables import tables_of
from g2rl.formulas.estimators import maj_at_k
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.countdown import CountdownVerifier, held_out_problems
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.registry import UnknownVerifierError
from g2rl.types import Completion, Problem, SamplingParams, Verdict
from tests.columns import undescribed

FILES = ("samples.parquet", "problems.parquet", "results.parquet", "groups.parquet")
LETTERS = ChoiceVerifier()


def letters(count: int, samples: int = 4, name: str = "letters") -> Benchmark:
    """Questions whose right answer is B, in two groups."""
    problems = [
        Problem(
            f"{name}/{i}",
            f"question {i}",
            "B",
            {"choices": ["1", "2", "3"], "group": "odd" if i % 2 else "even"},
        )
        for i in range(count)
    ]
    return Benchmark(
        name, problems, LETTERS, samples=samples, ks=None, params=SamplingParams(max_tokens=4)
    )


class Words:
    """A tokenizer: a token a character."""

    chat_template = ""

    def encode(self, text: str, **options: object) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))


class MadeUp:
    """An engine whose texts are a function of the key and the sample, and which may give up."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls: list[list[tuple[int, ...]]] = []
        self.stop_after = stop_after

    def push_weights(self) -> None:
        pass

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[tuple[int, ...]],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(list(keys))
        if on_progress:
            on_progress(len(prompts) * samples)
        return [[self.complete(key, g) for g in range(samples)] for key in keys]

    def complete(self, key: tuple[int, ...], sample: int) -> Completion:
        u = uniforms(key, sample, 2)
        letter = "ABC"[int(u[0] * 3)]
        text = "hard to say \ud800\x00" if u[1] < 0.2 else f"so \\boxed{{{letter}}}"
        return Completion(list(range(int(u[1] * 10) + 1)), "length" if u[1] < 0.2 else "stop", text)


class Silent:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def phase(self, name: str, total: int) -> Any:
        yield lambda count: None


def graders(verifier: Any) -> Grader:
    return Grader(verifier, workers=1)


@pytest.fixture(scope="module")
def mathematics() -> Iterator[Grader]:
    """A grader with sympy, which takes half a second to start."""
    with graders(MathVerifier()) as shared:
        yield shared


def run(
    folder: Path, benchmarks: list[Benchmark], engine: MadeUp, part: int = 3, seed: int = 0
) -> Silent:
    reporter = Silent()
    evaluation = Evaluation(folder, benchmarks, part, seed)
    evaluation.sample(engine, Words(), graders, reporter, chat=False)
    evaluation.finish(graders)
    return reporter


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, [letters(8), letters(5, 2, "others")], MadeUp())
    return folder


def test_the_files_hold_what_is_promised(finished: Path) -> None:
    samples, problems, results, groups = (pd.read_parquet(finished / name) for name in FILES)
    assert len(samples) == 8 * 4 + 5 * 2
    assert undescribed(finished) == []
    assert set(samples["finish"]) == {"stop", "length"}
    assert samples["answer"].isna().eq(samples["route"] == "unparsed").all()
    for (_, problem), mine in samples.groupby(["benchmark", "problem"]):
        row = problems[problems["problem"] == problem].iloc[0]
        assert (row["n"], row["c"]) == (len(mine), mine["correct"].sum())
        assert {v["answer"]: v["count"] for v in row["answers"]} == mine[
            "answer"
        ].dropna().value_counts().to_dict()
        assert [v["count"] for v in row["answers"]] == sorted(
            (v["count"] for v in row["answers"]), reverse=True
        )
    table = results.set_index(["benchmark", "metric"])
    assert table.loc[("letters", "pass@1"), "value"] == pytest.approx(
        (problems["c"] / problems["n"])[:8].mean()
    )
    for name in (
        "pass@1",
        "pass@2",
        "pass@4",
        "mean@4",
        "maj@1",
        "maj@4",
        "length",
        "truncated",
        "unparsed",
        "ungraded",
    ):
        row = table.loc[("letters", name)]
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["n_problems"], row["n_samples"], row["exact"], row["standard_error"]) == (
            8,
            4,
            True,
            0,
        )
    assert ("others", "pass@4") not in table.index
    assert table.loc[("letters", "maj@1"), "value"] == table.loc[("letters", "pass@1"), "value"]
    assert set(groups["group"]) == {"odd", "even"}
    assert groups["n_problems"].sum() == 13
    assert not (finished / "parts").exists()


def test_keys_belong_to_places_so_training_and_standing_evaluation_draw_the_same() -> None:
    engine, benchmark = MadeUp(), letters(4)
    with graders(LETTERS) as grader:
        result = evaluate(benchmark, engine, grader, Words(), chat=False, seed=5, samples=2)
    assert engine.calls == [[(5, EVAL_STREAM, i) for i in range(4)]]
    assert set(result.metrics) == {
        "pass@1",
        "pass@2",
        "maj@2",
        "pass@1_low",
        "pass@1_high",
        "pass@2_low",
        "pass@2_high",
        "maj@2_low",
        "maj@2_high",
        "length",
        "truncated",
        "distinct",
    }


@pytest.mark.parametrize("stop_after", [0, 1, 3, 4])
def test_an_interrupted_evaluation_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, stop_after: int
) -> None:
    benchmarks = [letters(8), letters(5, 2, "others")]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, benchmarks, MadeUp(stop_after))
    assert not (tmp_path / "samples.parquet").exists()
    engine = MadeUp()
    said = run(tmp_path, benchmarks, engine).said
    assert len(engine.calls) == 5 - stop_after, "five parts in all, none sampled twice"
    assert any("continuing" in line for line in said) == (stop_after > 0)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_damaged_part_is_sampled_again(finished: Path, tmp_path: Path) -> None:
    benchmarks = [letters(8), letters(5, 2, "others")]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, benchmarks, MadeUp(3))
    parts = sorted((tmp_path / "parts" / "letters").iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:200])
    write_rows(parts[1], read_samples(parts[1])[0][:-1], SAMPLES.arrow())
    engine = MadeUp()
    run(tmp_path, benchmarks, engine)
    assert [keys[0][-1] for keys in engine.calls] == [0, 3, 0, 3]
    assert (tmp_path / "results.parquet").read_bytes() == (
        finished / "results.parquet"
    ).read_bytes()


def test_a_finished_evaluation_is_not_sampled_again(finished: Path) -> None:
    before = (finished / "results.parquet").read_bytes()
    engine = MadeUp()
    run(finished, [letters(8), letters(5, 2, "others")], engine)
    assert engine.calls == []
    assert (finished / "results.parquet").read_bytes() == before


def test_grading_again_gives_the_same_and_repairs_what_was_wrong(
    finished: Path, tmp_path: Path
) -> None:
    regrade(finished / "samples.parquet", tmp_path / "same", graders, Silent())
    for name in FILES:
        assert (tmp_path / "same" / name).read_bytes() == (finished / name).read_bytes(), name
    damaged = pd.read_parquet(finished / "samples.parquet")
    damaged["correct"], damaged["answer"] = False, None
    damaged.sample(frac=1, random_state=0).to_parquet(
        tmp_path / "samples.parquet"
    )  # another program's order
    regrade(tmp_path / "samples.parquet", tmp_path / "again", graders, Silent())
    same, again = (pd.read_parquet(tmp_path / n / "results.parquet") for n in ("same", "again"))
    columns = ["benchmark", "metric"]
    pd.testing.assert_frame_equal(
        same.sort_values(columns).reset_index(drop=True),
        again.sort_values(columns).reset_index(drop=True),
    )
    with pytest.raises(EvaluationError, match="write elsewhere"):
        regrade(finished / "samples.parquet", finished, graders, Silent())


class OwnLetters(ChoiceVerifier):
    """A verifier with code of the user's own, and settings that samples name."""

    def __init__(self, identity: object) -> None:
        super().__init__()
        self.identity = identity


def test_a_verifier_of_the_users_own_has_to_be_named_beside_the_file(
    finished: Path, tmp_path: Path
) -> None:
    """No file makes g2rl import code, and only the same settings grade again."""
    rows, ks = read_samples(finished / "samples.parquet")
    own = OwnLetters("sums {} right from 1")
    for row in rows:
        row["verifier"] = verifier_name(own)
        row["correct"] = False
    write_samples(tmp_path / "samples.parquet", rows, ks)
    source = tmp_path / "samples.parquet"
    regrade(source, tmp_path / "again", graders, Silent(), lambda: [LETTERS, own])
    again, _ = read_samples(tmp_path / "again" / "samples.parquet")
    before, _ = read_samples(finished / "samples.parquet")
    assert [row["correct"] for row in again] == [row["correct"] for row in before]
    assert any(row["correct"] for row in again)

    # another taskset, settings that a file does not hold, nothing
    others = ([OwnLetters("sums {} right from 2")], [OwnLetters(("sums", 1))], [])
    for known in others:
        with pytest.raises(UnknownVerifierError, match=r"OwnLetters.*graded again only beside"):
            regrade(source, tmp_path / "out", graders, Silent(), lambda known=known: known)
    assert not (tmp_path / "out" / "samples.parquet").exists()


def test_unusable_samples_files_are_refused(tmp_path: Path, finished: Path) -> None:
    rows, _ = read_samples(finished / "samples.parquet")
    with pytest.raises(EvaluationError, match="there is no file"):
        read_samples(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(EvaluationError, match="cannot be read as parquet"):
        read_samples(tmp_path / "text.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(EvaluationError, match="has no column benchmark, problem"):
        read_samples(tmp_path / "other.parquet")
    write_rows(tmp_path / "twice.parquet", [*rows, rows[0]], SAMPLES.arrow())
    with pytest.raises(EvaluationError, match="1 samples twice"):
        read_samples(tmp_path / "twice.parquet")
    for change in ({"index": "first"}, {"verifier": None}, {"meta": ["{}"]}, {"prompt": None}):
        odd = pd.DataFrame([{**row, **change} for row in rows])
        odd.to_parquet(tmp_path / "odd.parquet")
        with pytest.raises(EvaluationError, match=r"not written by g2rl-eval|without a value"):
            read_samples(tmp_path / "odd.parquet")
    for text in (b"[" * 100_000, b"3", b"{"):
        table = pyarrow.table(pd.DataFrame(rows)).replace_schema_metadata({KS: text})
        parquet.write_table(table, tmp_path / "ks.parquet")
        with pytest.raises(EvaluationError, match="the ks in its metadata"):
            read_samples(tmp_path / "ks.parquet")
    write_rows(tmp_path / "uneven.parquet", rows[:-1], SAMPLES.arrow())
    with pytest.raises(EvaluationError, match="between 1 and 2 samples"):
        regrade(tmp_path / "uneven.parquet", tmp_path / "out", graders, Silent())


groups_of_answers = st.integers(2, 6).flatmap(
    lambda n: st.lists(
        st.lists(st.sampled_from(["A", "B", "C", None]), min_size=n, max_size=n),
        min_size=1,
        max_size=6,
    )
)


@settings(max_examples=30, deadline=None)
@given(groups_of_answers, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_problems_or_samples(
    answers: list[list[str | None]], rng: random.Random
) -> None:
    def rows_of(answers: list[list[str | None]]) -> list[dict[str, Any]]:
        fixed = {
            "benchmark": "b",
            "gold": "B",
            "meta": "{}",
            "prompt": "",
            "tokens": 1,
            "finish": "stop",
            "route": "x",
        }
        return [
            {**fixed, "problem": f"p{i}", "index": i, "sample": g, "answer": a, "correct": a == "B"}
            for i, group in enumerate(answers)
            for g, a in enumerate(group)
        ]

    shuffled = [rng.sample(group, len(group)) for group in answers]
    rng.shuffle(shuffled)
    with graders(LETTERS) as grader:
        first, second = (
            tables_of(rows_of(a), {}, {"b": grader}).results for a in (answers, shuffled)
        )
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, abs=1e-12), one["metric"]
    value = {row["metric"]: row["value"] for row in first}
    ks = sorted(row["k"] for row in first if row["metric"].startswith("pass@"))
    passes = [value[f"pass@{k}"] for k in ks]
    assert all(a <= b + 1e-12 for a, b in pairwise(passes)), "pass@k increases with k"
    assert value["maj@1"] == value["pass@1"] == pytest.approx(value[f"mean@{ks[-1]}"])
    assert all(value[f"maj@{k}"] <= value[f"pass@{k}"] + 1e-12 for k in ks)


@settings(max_examples=40, deadline=None)
@given(groups_of_answers)
def test_the_vote_of_one_is_pass_at_1(answers: list[list[str | None]]) -> None:
    with graders(LETTERS) as grader:
        for group in answers:
            verdicts = [Verdict(a == "B", a, "letter") for a in group]
            found = maj_at_k(answer_classes(verdicts, grader), [v.correct for v in verdicts], 1)
            assert found.value == pytest.approx(
                estimate_accuracies([verdicts], [1], grader).values["pass@1"][0]
            )


def test_answers_are_grouped_by_meaning_and_failures_stand_alone(mathematics: Grader) -> None:
    said = [
        ("1/2", True, "number"),
        ("0.5", True, "number"),
        ("\\frac{1}{2}", True, "string"),
        ("3", False, "number"),
        ("9^9^9", False, "refused"),
        ("9^9^9", False, "refused"),
        (None, False, "unparsed"),
    ]
    group = [Verdict(ok, answer, route) for answer, ok, route in said]
    classes = answer_classes(group, mathematics)
    votes = estimate_accuracies([group], [1, 7], mathematics)
    assert classes[0] == classes[1] == classes[2] != classes[3]
    assert classes[4] == classes[5] not in classes[:4]
    assert classes[6] == -1
    assert [(v.answer, v.count, v.correct) for v in votes.votes[0]] == [
        ("0.5", 3, 3),
        ("9^9^9", 2, 0),
        ("3", 1, 0),
    ]
    assert votes.values["maj@7"][0] == 1
    assert votes.values["distinct"][0] == 1


def test_the_estimates_do_not_depend_on_the_order_of_samples(mathematics: Grader) -> None:
    """Percentages and tolerances are not transitive: the classes must not show it."""
    said = [
        "10",
        "10%",
        "10%",
        "0.1",
        "0.1",
        "1/3",
        "0.3333333",
        "0.33333366",
        "x+1",
        "1+x",
        None,
        "7",
    ]
    for gold in ("10", "0.1", "7"):
        problem, rng, found = Problem("p", "", gold), random.Random(0), set()
        items = [(rf"\boxed{{{answer}}}" if answer else "", problem) for answer in said]
        group = mathematics.grade(items)
        for _ in range(6):
            rng.shuffle(group)
            estimates = estimate_accuracies([group], [1, 4, 12], mathematics)
            values = {name: float(column[0]) for name, column in estimates.values.items()}
            votes = [(vote.answer, vote.count, vote.correct) for vote in estimates.votes[0]]
            found.add((tuple(sorted(values.items())), tuple(votes)))
        assert len(found) == 1
        right = {"10": 3, "0.1": 4, "7": 1}[gold]
        assert max(vote.correct for vote in estimates.votes[0]) == right
        assert values["distinct"] == 1


def test_comparison_pairs_problems_and_resamples_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        run(tmp_path / str(seed), [letters(8)], MadeUp(), seed=seed)
    rows = compare(
        {"a": [tmp_path / "0"], "b": [tmp_path / "1", tmp_path / "2"], "c": [tmp_path / "0"]}
    )
    found = {(row["other"], row["metric"]): row for row in rows}
    for metric in ("pass@1", "pass@4", "maj@4"):
        row = found["b", metric]
        values = [
            pd.read_parquet(tmp_path / str(s) / "problems.parquet")[metric].mean() for s in range(3)
        ]
        assert row["difference"] == pytest.approx(np.mean(values[1:]) - values[0])
        assert row["low"] <= row["difference"] <= row["high"]
        assert (row["baseline_runs"], row["other_runs"]) == (1, 2)
        same = found["c", metric]
        assert (same["difference"], same["low"], same["high"]) == (0, 0, 0), (
            "pairing removes what is shared"
        )


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", [letters(4)], MadeUp())
    run(tmp_path / "b", [letters(5)], MadeUp())
    with pytest.raises(EvaluationError, match=r"different problems .4 and 5, 4 in both"):
        compare({"a": [tmp_path / "a"], "b": [tmp_path / "b"]})
    with pytest.raises(EvaluationError, match="at least two"):
        compare({"a": [tmp_path / "a"]})
    with pytest.raises(EvaluationError, match="holds several evaluations"):
        compare({"a": [tmp_path], "b": [tmp_path / "a"]})
    with pytest.raises(EvaluationError, match="no finished evaluation"):
        compare({"a": [tmp_path / "a" / "nothing"], "b": [tmp_path / "b"]})


def test_tables_show_every_benchmark_and_the_signs(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = EvalReporter()
    findings = Evaluation(finished, [letters(8), letters(5, 2, "others")], 3, 0).finish(graders)
    reporter.findings(findings, "model")
    reporter.comparison(compare({"a": [finished], "b": [finished]}))
    shown = capsys.readouterr().out
    for word in ("letters", "others", "pass@1", "maj@k", "pass@k", "answer", "cut", "+0.0"):
        assert word in shown
    assert "mean@k" not in shown, "it is pass@1 by another name"


def test_results_are_whole_in_eighty_columns(finished: Path) -> None:
    findings = Evaluation(finished, [letters(8), letters(5, 2, "others")], 3, 0).finish(graders)
    file = io.StringIO()
    reporter = EvalReporter(Console(file=file, width=80, force_terminal=True, no_color=True))
    reporter.findings(findings, "model")
    reporter.comparison(compare({"a": [finished], "b": [finished]}))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    table, _, comparison = shown.partition("baseline:")
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in shown
    for row in findings.results:
        if row["metric"] == "pass@1":
            assert f"{100 * row['value']:.1f}" in table
            assert f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in table
    assert "[+0.0, +0.0]" in comparison


def test_countdown_answers_survive_the_file(tmp_path: Path) -> None:
    class Solver(MadeUp):
        def complete(self, key: tuple[int, ...], sample: int) -> Completion:
            return Completion([1], "stop", "\\boxed{ 1 + 1 }" if sample else "none")

    problems = held_out_problems(3)
    made = Benchmark(
        "countdown", problems, CountdownVerifier(), samples=2, ks=[1, 2], params=SamplingParams()
    )
    run(tmp_path / "a", [made], Solver())
    regrade(tmp_path / "a" / "samples.parquet", tmp_path / "b", graders, Silent())
    assert (tmp_path / "a" / "results.parquet").read_bytes() == (
        tmp_path / "b" / "results.parquet"
    ).read_bytes()
