"""Mathematics benchmarks: columns, ids, golds, local copies and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from hydra.utils import instantiate

from g2rl.tasks.benchmarks.benchmark import Benchmark, powers_of_two
from g2rl.tasks.benchmarks.math import math_benchmark
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.math import PAPER_INSTRUCTION, MathTask
from g2rl.tasks.rows import DataError, locate, read_rows
from g2rl.types import Problem, SamplingParams
from tests.support import DATA, composed

SHARED = DATA.parent.parent.parent / "shared" / "data"
PUBLISHED = {
    "math500": ("HuggingFaceH4/MATH-500", None, "test"),
    "amc23": ("math-ai/amc23", None, "test"),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train"),
    "aime25": ("math-ai/aime25", None, "test"),
    "gpqa_diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    "mmlu_pro": ("TIGER-Lab/MMLU-Pro", None, "test"),
}


def node(choice: str, *overrides: str) -> Any:
    return composed(f"benchmark={choice}", *overrides, command="evaluate").benchmark


def test_questions_and_float_golds_as_in_published_amc_files() -> None:
    benchmark = math_benchmark(
        "amc23",
        source="unused",
        data_dir=str(DATA),
        local_name="amc23.jsonl",
        problem_column="auto",
    )
    assert [problem.answer for problem in benchmark.problems] == ["12", "81", "18"]
    assert benchmark.problems[0].prompt == f"How many edges has a cube?\n{PAPER_INSTRUCTION}"
    assert benchmark.ks == [1, 2, 4, 8, 16]
    assert benchmark.params.temperature == 0.8


def test_limit_keeps_the_first_rows_and_leading_zeros_are_no_obstacle() -> None:
    benchmark = instantiate(node("aime24", f"data_dir={DATA}", "benchmark.limit=1"))
    assert [problem.id for problem in benchmark.problems] == ["aime24/own-24-0"]
    assert MathVerifier().screen("so \\boxed{43}", benchmark.problems[0]).correct


@pytest.mark.parametrize("choice", PUBLISHED)
def test_the_hub_is_asked_for_the_published_id_and_split(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    rows = read_rows(str(DATA / f"{choice}.jsonl"))

    def load_dataset(
        source: str, config: str | None, split: str, revision: str | None
    ) -> list[dict[str, Any]]:
        asked.append((source, config, split, revision))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark: Benchmark = instantiate(node(choice, "benchmark.revision=abc"))
    assert asked == [(*PUBLISHED[choice], "abc")]
    local: Benchmark = instantiate(node(choice, f"benchmark.data_dir={DATA}"))
    assert benchmark.problems == local.problems, (
        "the hub and a local copy of it are the same benchmark"
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    ("choice", "size"),
    [("math500", 500), ("amc23", 40), ("aime24", 30), ("aime25", 30), ("mmlu_pro", 280)],
)
def test_shared_copies_load_whole(choice: str, size: int) -> None:
    benchmark: Benchmark = instantiate(node(choice, f"data_dir={SHARED}"))
    assert len(benchmark.problems) == size
    assert all(problem.answer for problem in benchmark.problems)


def test_a_local_copy_is_found_by_name_or_pattern_and_never_guessed(tmp_path: Path) -> None:
    assert locate("org/set") == "org/set"
    (tmp_path / "mmlu_pro_part.jsonl").write_text("{}")
    assert locate("org/set", str(tmp_path), "mmlu_pro*.*") == str(tmp_path / "mmlu_pro_part.jsonl")
    (tmp_path / "mmlu_pro.jsonl").write_text("{}")
    with pytest.raises(
        DataError, match=r"several of mmlu_pro\*\.\*: mmlu_pro.jsonl, mmlu_pro_part.jsonl"
    ):
        locate("org/set", str(tmp_path), "mmlu_pro*.*")
    with pytest.raises(
        DataError, match=r"holds no aime24\.jsonl: put a local copy of org/set there"
    ):
        locate("org/set", str(tmp_path), "aime24.jsonl")
    with pytest.raises(DataError, match="there is no folder"):
        locate("org/set", str(tmp_path / "absent"), "aime24.jsonl")


def test_ks_are_checked_or_made() -> None:
    assert powers_of_two(12) == [1, 2, 4, 8, 12]
    assert powers_of_two(1) == [1]
    problem = Problem("a", "a", "1")
    made = Benchmark("b", [problem], MathVerifier(), samples=4, ks=None, params=SamplingParams())
    assert made.ks == [1, 2, 4]
    for ks in ([8], [0], []):
        with pytest.raises(ValueError, match="1 <= k <= samples"):
            Benchmark("b", [problem], MathVerifier(), samples=4, ks=ks, params=SamplingParams())


def test_boxed_only_reaches_the_verifier(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": "a", "answer": "1"}')
    for boxed_only in (False, True):
        benchmark = math_benchmark("m", source=str(path), boxed_only=boxed_only)
        assert benchmark.verifier.boxed_only is boxed_only  # type: ignore[attr-defined]
        task = MathTask(source=str(path), boxed_only=boxed_only)
        assert task.verifier.boxed_only is boxed_only  # type: ignore[attr-defined]
