"""reasoning-gym: only safe scorers, the same problems everywhere, golds accepted, nothing
executed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from g2rl.tasks.benchmarks.reasoning_gym import reasoning_gym_benchmark
from g2rl.tasks.grading.gym import SAFE, GymVerifier, find_answer, scorer_of
from g2rl.types import Problem

EXECUTING = (
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
)
GRADE_HOSTILE = """
import json, sys
from g2rl.types import Problem
from g2rl.tasks.grading.gym import GymVerifier
cases = [(text, Problem(**fields)) for text, fields in json.load(sys.stdin)]
verifier = GymVerifier()
for text, problem in cases:
    verifier.grade(text, problem)  # imports, caches
seen = []
def hook(event, args):
    if event in (
        "compile", "exec", "os.system", "os.exec", "subprocess.Popen", "open", "socket.connect"
    ):
        seen.append(f"{event} {args}")
sys.addaudithook(hook)
right = [verifier.grade(text, problem).correct for text, problem in cases]
quiet = list(seen)
eval("1 + 1")
print(json.dumps({"seen": quiet, "right": sum(right), "control": seen}))
"""


def test_the_areas_are_covered_and_no_executing_family_is_offered() -> None:
    assert set(SAFE.values()) == {"arithmetic", "logic", "graphs", "algorithms"}
    assert len(SAFE) >= 12
    assert not set(SAFE) & set(EXECUTING)
    for family in (*EXECUTING, "no_such_family"):
        with pytest.raises(ValueError, match="not offered"):
            scorer_of(family)


def test_the_answer_is_the_last_box_or_tag_in_plain_text() -> None:
    assert find_answer("<think>\\boxed{1}</think> so \\boxed{\\text{A is}\\ 2}") == "A is 2"
    assert find_answer("it is <answer> 7 </answer>") == "7"
    assert find_answer("so it is 7") is None
    assert find_answer("\\boxed{ }") is None
    assert find_answer("\\boxed{" + "9" * 5000 + "}") is None


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    scorer_of.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'g2rl\[reasoning-gym\]'"):
        reasoning_gym_benchmark(per_family=1)


def test_golds_are_right_other_answers_wrong_and_failing_scorers_are_contained() -> None:
    pytest.importorskip("reasoning_gym")
    benchmark = reasoning_gym_benchmark(per_family=3)
    verifier = GymVerifier()
    assert {problem.meta["group"] for problem in benchmark.problems} == set(SAFE)
    for problem in benchmark.problems:
        assert verifier.grade(f"so \\boxed{{{problem.answer}}}", problem).correct, problem.id
        assert not verifier.grade("so \\boxed{no idea}", problem).correct, problem.id
        assert verifier.grade("no box", problem).route == "unparsed"
        assert json.loads(json.dumps(problem.meta)) == problem.meta, "files hold it as it is"
    broken = Problem("x", "", "8", {"family": "gcd", "entry": {}})
    assert verifier.grade("\\boxed{8}", broken).route == "error"


def test_problems_are_reproducible_and_take_turns() -> None:
    pytest.importorskip("reasoning_gym")
    few = reasoning_gym_benchmark(per_family=2)
    assert few.problems == reasoning_gym_benchmark(per_family=2).problems
    limited = reasoning_gym_benchmark(per_family=2, limit=12)
    assert {problem.meta["group"] for problem in limited.problems} == set(SAFE)


def test_hostile_answers_execute_nothing() -> None:
    pytest.importorskip("reasoning_gym")
    attacks = (
        "__import__('os').system('true')",
        "[print(1) for _ in range(3)]",
        "().__class__",
        "9**9**9",
        "(" * 1500,
        "exec('1')",
        '["a", "b"]',
        "{}",
        "[[1, 2], [3, 4]]",
        "nan",
        "1e999",
        "\\frac{1}{0}",
        "1/0",
        "\x00",
        "up " * 600,
        "lambda: 0",
        "f'{1}'",
        "１２",
        "True",
        "None",
    )
    fields = ("id", "prompt", "answer", "meta")
    cases = [
        (f"\\boxed{{{attack}}}", {name: getattr(problem, name) for name in fields})
        for problem in reasoning_gym_benchmark(per_family=1).problems
        for attack in attacks
    ]
    found = subprocess.run(
        [sys.executable, "-c", GRADE_HOSTILE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(found.stdout.splitlines()[-1])
    assert report["seen"] == []
    assert report["control"], "the hook sees an eval when there is one"
    assert report["right"] <= 2, "a yes-no gold may be hit by chance"
