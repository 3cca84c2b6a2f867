"""An evaluation in its folder: sample what is missing, part by part, then estimate; or grade again.

A part is a number of consecutive problems, sampled, graded and written before the next is begun. A
sample is a function of (seed, problem, sample) and a part is always sampled as one, so an
evaluation that was interrupted ends with the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from g2rl.engines.engine import Engine
from g2rl.evaluation.evaluate import respond
from g2rl.evaluation.files import (
    SAMPLES,
    EvaluationError,
    Row,
    judgement,
    problem_of,
    read_samples,
    sample_rows,
    write_rows,
    write_samples,
)
from g2rl.evaluation.tables import Findings, tables_of
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.registry import verifier_named
from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Tokenizer

Graders = Callable[[Verifier], Grader]
REGRADE_BATCH = 256


class Reporter(Protocol):
    """Tells the user what happens; see `g2rl.evaluation.console`."""

    def say(self, text: str) -> None: ...

    def phase(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]: ...


class Evaluation:
    """Samples of some benchmarks in a folder.

    Args:
        folder: where the files go.
        benchmarks: in the order of the tables.
        part: problems of one part.
        seed: of the samples.
    """

    def __init__(self, folder: Path, benchmarks: Sequence[Benchmark], part: int, seed: int) -> None:
        if part < 1:
            raise ValueError(f"part must be >= 1, got {part}")
        self.folder, self.benchmarks, self.part, self.seed = folder, list(benchmarks), part, seed

    @property
    def samples_file(self) -> Path:
        return self.folder / "samples.parquet"

    def pieces(self) -> Iterator[tuple[Benchmark, range, Path]]:
        """Every part: its benchmark, the places of its problems and its file."""
        for benchmark in self.benchmarks:
            for start in range(0, len(benchmark.problems), self.part):
                places = range(start, min(start + self.part, len(benchmark.problems)))
                name = f"part_{start // self.part:05d}.parquet"
                yield benchmark, places, self.folder / "parts" / benchmark.name / name

    def missing(self) -> list[tuple[Benchmark, range, Path]]:
        """The parts that are still to be sampled; none once samples.parquet is there."""
        if self.samples_file.exists():
            return []
        return [piece for piece in self.pieces() if not _intact(*piece)]

    def sample(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        graders: Graders,
        reporter: Reporter,
        *,
        chat: bool,
    ) -> None:
        """Sample and grade every missing part."""
        # what is still to do
        missing = self.missing()
        total = len(list(self.pieces()))
        if 0 < len(missing) < total:
            reporter.say(f"continuing: {total - len(missing)} of {total} parts are done")
        for benchmark, places, path in missing:
            with reporter.phase(benchmark.name, len(places) * benchmark.samples) as advance:
                responses = respond(
                    benchmark,
                    places,
                    engine,
                    graders(benchmark.verifier),
                    tokenizer,
                    chat=chat,
                    seed=self.seed,
                    samples=benchmark.samples,
                    on_progress=advance,
                )
                rows = sample_rows(benchmark, places, responses.completions, responses.verdicts)
                write_rows(path, rows, SAMPLES)

            # say how it goes
            right = sum(row["correct"] for row in rows)
            reporter.say(
                f"{benchmark.name}: {places[-1] + 1} of {len(benchmark.problems)} problems, "
                f"{right} of the last {len(rows)} samples right"
            )

    def finish(self, graders: Graders) -> Findings:
        """Join the parts, estimate and write the tables; may be called again at any time."""
        if not self.samples_file.exists():
            rows: list[Row] = []
            for _, _, path in self.pieces():
                rows += read_samples(path)[0]
            write_samples(self.samples_file, rows, {b.name: b.ks for b in self.benchmarks})

        # from here on samples.parquet alone counts
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        samples, ks = read_samples(self.samples_file)
        findings = tables_of(samples, ks, {b.name: graders(b.verifier) for b in self.benchmarks})
        findings.write(self.folder)
        return findings


def _intact(benchmark: Benchmark, places: range, path: Path) -> bool:
    """Whether a part is there and holds exactly its samples."""
    try:
        rows, _ = read_samples(path)
    except EvaluationError:
        return False
    wanted: set[tuple[str, int]] = set()
    for place in places:
        for number in range(benchmark.samples):
            wanted.add((benchmark.problems[place].id, number))
    return {(row["problem"], row["sample"]) for row in rows} == wanted


def regrade(source: Path, folder: Path, graders: Graders, reporter: Reporter) -> Findings:
    """Grade the completions of a samples file again and write all tables into `folder`; needs no
    model.

    Raises:
        EvaluationError: the file cannot be used, or `folder` is where it lies.
        UnknownVerifierError: the file names a verifier that g2rl does not have.
    """
    # never over the file that is read
    if folder.resolve() == source.resolve().parent:
        raise EvaluationError(f"{folder} holds the samples to grade again; write elsewhere")

    # one grader a benchmark
    rows, ks = read_samples(source)
    grader_of = {row["benchmark"]: graders(verifier_named(row["verifier"])) for row in rows}
    for name, grader in grader_of.items():
        samples = [row for row in rows if row["benchmark"] == name]
        right_before = sum(row["correct"] for row in samples)
        with reporter.phase(name, len(samples)) as advance:
            for start in range(0, len(samples), REGRADE_BATCH):
                batch = samples[start : start + REGRADE_BATCH]
                verdicts = grader.grade([(row["completion"], problem_of(row)) for row in batch])
                for row, verdict in zip(batch, verdicts, strict=True):
                    row.update(judgement(verdict))
                advance(len(batch))
        right = sum(row["correct"] for row in samples)
        reporter.say(f"{name}: {right} of {len(samples)} samples right, {right_before} before")

    # all tables anew
    write_samples(folder / "samples.parquet", rows, ks)
    findings = tables_of(rows, ks, grader_of)
    findings.write(folder)
    return findings


def problems_digest(benchmarks: Sequence[Benchmark]) -> str:
    """A hash of what is asked: ids, prompts, golds."""
    digest = hashlib.sha256()
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            for text in (benchmark.name, problem.id, problem.prompt, problem.answer):
                digest.update(text.encode("utf-8", "replace") + b"\0")
    return digest.hexdigest()


def folder_digest(folder: Path, pieces: int = 64, piece: int = 1 << 16) -> str:
    """A hash of the files of a model: names, sizes and `pieces` evenly spread pieces of each."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(size // pieces, piece)):
                file.seek(start)
                digest.update(file.read(piece))
    return digest.hexdigest()


def averages(findings: Findings) -> Mapping[str, float]:
    """pass@1 of each benchmark."""
    return {row["benchmark"]: row["value"] for row in findings.results if row["metric"] == "pass@1"}
