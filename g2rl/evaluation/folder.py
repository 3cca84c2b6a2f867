"""An evaluation in its folder: sample the missing parts and estimate, or grade samples again.

A part is a number of consecutive problems of one benchmark. It is sampled, graded and written
before the next one is begun. A sample is a function of (seed, problem, sample), and a part is
always sampled as a whole, so an evaluation that was interrupted ends with the same bytes as one
that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from g2rl.engines.engine import Engine
from g2rl.engines.graded_text import graded_item
from g2rl.evaluation.evaluate import respond
from g2rl.evaluation.files import (
    SAMPLES,
    EvaluationError,
    Row,
    problem_of,
    read_samples,
    sample_rows,
    verdict_columns,
    verifier_name,
    write_rows,
    write_samples,
)
from g2rl.evaluation.tables import Findings, tables_of
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.registry import UnknownVerifierError, verifier_named
from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Tokenizer

Graders = Callable[[Verifier], Grader]
"""Gives the grader that works with a verifier."""
REGRADE_BATCH = 256
"""Samples that are graded again between two reports of progress."""


class Reporter(Protocol):
    """Tells the user what happens; see `g2rl.evaluation.console`."""

    def say(self, text: str) -> None: ...

    def phase(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]: ...


class SamplePart(NamedTuple):
    """Consecutive problems of one benchmark that are sampled as a whole."""

    benchmark: Benchmark
    places: range
    """Of the problems in the benchmark."""
    path: Path
    """Of the file that holds the samples until all parts are joined."""


class Evaluation:
    """The evaluation of some benchmarks in a folder.

    Args:
        folder: where the files go.
        benchmarks: in the order of the tables.
        part: number of problems of one part.
        seed: of the samples.

    Raises:
        ValueError: `part` is below 1.
    """

    def __init__(self, folder: Path, benchmarks: Sequence[Benchmark], part: int, seed: int) -> None:
        if part < 1:
            raise ValueError(f"part must be >= 1, got {part}")
        self.folder, self.benchmarks = folder, list(benchmarks)
        self.problems_per_part, self.seed = part, seed

    @property
    def samples_file(self) -> Path:
        """Holds all samples once every part is done."""
        return self.folder / "samples.parquet"

    def parts(self) -> Iterator[SamplePart]:
        """All parts, in the order in which they are sampled."""
        for benchmark in self.benchmarks:
            problem_count = len(benchmark.problems)
            part_folder = self.folder / "parts" / benchmark.name

            # small parts, so that an interruption costs little
            starts = range(0, problem_count, self.problems_per_part)
            for number, start in enumerate(starts):
                places = range(start, min(start + self.problems_per_part, problem_count))
                yield SamplePart(benchmark, places, part_folder / f"part_{number:05d}.parquet")

    def missing_parts(self) -> list[SamplePart]:
        """The parts that are still to be sampled; none once samples.parquet is there."""
        if self.samples_file.exists():
            return []
        return [part for part in self.parts() if not _is_intact(part)]

    def sample(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        graders: Graders,
        reporter: Reporter,
        *,
        chat: bool,
    ) -> None:
        """Sample and grade every missing part, and write each as soon as it is done.

        Args:
            engine: draws the responses.
            tokenizer: of the policy.
            graders: judge the responses.
            reporter: is told of the progress.
            chat: prompts go through the tokenizer's chat template.
        """
        # tell of a continuation only where something was done and something is left
        missing_parts = self.missing_parts()
        part_count = len(list(self.parts()))
        if 0 < len(missing_parts) < part_count:
            done_count = part_count - len(missing_parts)
            reporter.say(f"continuing: {done_count} of {part_count} parts are done")

        # one part after the other: an interruption costs one of them
        for benchmark, places, path in missing_parts:
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

                # from here on this part survives an interruption
                rows = sample_rows(benchmark, places, responses.completions, responses.verdicts)
                write_rows(path, rows, SAMPLES.arrow())

            reporter.say(
                f"{benchmark.name}: {places[-1] + 1} of {len(benchmark.problems)} problems, "
                f"{count_right(rows)} of the last {len(rows)} samples right"
            )

    def finish(self, graders: Graders) -> Findings:
        """Join the parts into samples.parquet, and compute and write the tables.

        May be called again at any time: the tables are then computed anew.
        """
        # a continued evaluation may have joined its parts already
        if not self.samples_file.exists():
            rows: list[Row] = []
            for part in self.parts():
                rows += read_samples(part.path)[0]
            # the ks travel with the samples, so that grading again estimates the same
            ks_of = {benchmark.name: benchmark.ks for benchmark in self.benchmarks}
            write_samples(self.samples_file, rows, ks_of)

        # the tables come from samples.parquet alone, as they do when it is graded again
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        samples, ks = read_samples(self.samples_file)
        grader_of = {benchmark.name: graders(benchmark.verifier) for benchmark in self.benchmarks}
        findings = tables_of(samples, ks, grader_of)
        findings.write(self.folder)
        return findings


def count_right(rows: Sequence[Row]) -> int:
    """How many rows of samples.parquet hold a right answer."""
    return sum(row["correct"] for row in rows)


def _is_intact(part: SamplePart) -> bool:
    """Whether the file of a part exists and holds exactly the part's samples."""
    # a file that cannot be read is sampled again
    try:
        rows, _ = read_samples(part.path)
    except EvaluationError:
        return False

    # an interrupted run of other settings may have left fewer, more or other samples
    expected: set[tuple[str, int]] = set()
    for place in part.places:
        for number in range(part.benchmark.samples):
            expected.add((part.benchmark.problems[place].id, number))
    return {(row["problem"], row["sample"]) for row in rows} == expected


def regrade(
    source: Path,
    folder: Path,
    graders: Graders,
    reporter: Reporter,
    own_verifiers: Callable[[], Sequence[Verifier]] = tuple,
) -> Findings:
    """Grade the completions of a samples file again; needs no model.

    Args:
        source: the samples file.
        folder: where the new samples.parquet and all tables are written.
        graders: judge the completions.
        reporter: is told of the progress.
        own_verifiers: makes those that the user has named beside the file, for files of verifiers
            that run code of the user's own; called only if g2rl has none of the file's name.

    Raises:
        EvaluationError: the file cannot be used, or `folder` is where it lies.
        UnknownVerifierError: the file names a verifier that neither g2rl nor the user has.
    """
    # the old verdicts must not be lost
    if folder.resolve() == source.resolve().parent:
        raise EvaluationError(f"{folder} holds the samples to grade again; write elsewhere")

    # a benchmark has one verifier, which its rows name
    rows, ks = read_samples(source)
    verifiers: dict[str, Verifier] = {}
    for name in {row["verifier"] for row in rows}:
        verifiers[name] = _verifier_of(name, own_verifiers)
    grader_of = {row["benchmark"]: graders(verifiers[row["verifier"]]) for row in rows}
    for benchmark, grader in grader_of.items():
        samples = [row for row in rows if row["benchmark"] == benchmark]
        right_before = count_right(samples)
        with reporter.phase(benchmark, len(samples)) as advance:
            for start in range(0, len(samples), REGRADE_BATCH):
                batch = samples[start : start + REGRADE_BATCH]
                _regrade_rows(batch, grader)
                advance(len(batch))

        # many changed verdicts would mean another verifier, or a changed one
        reporter.say(
            f"{benchmark}: {count_right(samples)} of {len(samples)} samples right, "
            f"{right_before} before"
        )

    # the folder then holds what an evaluation would have written
    write_samples(folder / "samples.parquet", rows, ks)
    findings = tables_of(rows, ks, grader_of)
    findings.write(folder)
    return findings


def _verifier_of(name: str, own_verifiers: Callable[[], Sequence[Verifier]]) -> Verifier:
    """The verifier that a samples file names: one of g2rl's, or one that the user has named too.

    A file cannot make g2rl import code. So a verifier with code of the user's own has to be the
    same, settings included, as one that the command names.

    Raises:
        UnknownVerifierError: neither has it.
    """
    try:
        return verifier_named(name)
    except UnknownVerifierError as error:
        # settings that no file could hold leave nothing to compare
        own = [one for one in own_verifiers() if isinstance(getattr(one, "identity", None), str)]
        found = {verifier_name(verifier): verifier for verifier in own}
        if name in found:
            return found[name]
        named = f"; the benchmark named here has {', '.join(found)}" if found else ""
        raise UnknownVerifierError(
            f"{error} (the file says {name}): samples that code of your own has judged, such as a "
            "taskset's, are graded again only beside the benchmark that they came from, with its "
            "settings (benchmark=taskset benchmark.taskset=NAME ...), and those of reward "
            f"functions not at all{named}"
        ) from None


def _regrade_rows(rows: Sequence[Row], grader: Grader) -> None:
    """Replace the verdicts in rows of samples.parquet."""
    items = [graded_item(row["completion"], row["finish"], problem_of(row)) for row in rows]
    verdicts = grader.grade(items)
    for row, verdict in zip(rows, verdicts, strict=True):
        row.update(verdict_columns(verdict))


def pass_at_1_by_benchmark(findings: Findings) -> Mapping[str, float]:
    """Mean pass@1 of each benchmark, by name."""
    values: dict[str, float] = {}
    for row in findings.results:
        if row["metric"] == "pass@1":
            values[row["benchmark"]] = row["value"]
    return values
