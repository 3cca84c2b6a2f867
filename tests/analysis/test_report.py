"""The page about a run: whole, closed to the network, and indifferent to what a model wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from g2rl.analysis.comparison.choices import Choices
from g2rl.analysis.report.facts import ReportError
from g2rl.analysis.report.responses import (
    Budget,
    chosen_steps,
    hundredths,
    packed,
    responses_of,
    short_numbers,
    unpacked,
)
from g2rl.analysis.report.safe_text import shown_text
from g2rl.cli.jobs import compare as compare_job
from g2rl.cli.jobs.compare import compare
from g2rl.cli.jobs.report import report, report_run
from g2rl.cli.report import main
from g2rl.runs.layout import RunFolder
from tests.report_pages import HOSTILE, hostile_run
from tests.support import json_lines, metric_rows

OLD_RUN = Path(__file__).resolve().parents[1] / "data" / "run_741d26e" / "run"
EMPTY_ELEMENTS = {"meta", "link", "input", "br", "use"}


class Page(HTMLParser):
    """The elements of a page with their attributes, its texts, and the tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.wrong += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        place = self._open[-1] if self._open else ""
        self.texts.setdefault(place, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        """Everything that is read."""
        return " ".join("".join(self.texts[place]) for place in self.texts if place != "script")

    @property
    def data(self) -> Any:
        """What the explorer is given."""
        return unpacked(self.texts["script"][0])


@pytest.fixture(scope="module")
def page(finished_run: Path) -> Page:
    """The page that the run itself has written."""
    return Page(finished_run / "report.html")


# --- the file


def test_the_page_is_well_formed_and_has_every_part(page: Page) -> None:
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert {"results", "learning", "geometry", "responses", "runs", "explorer", "data"} <= set(ids)
    assert len(ids) == len(set(ids)), "an id stands twice"
    for _, attributes in page.elements:
        for name in ("href", "xlink:href"):
            target = attributes.get(name) or ""
            assert not target.startswith("#") or target[1:] in ids, target


def test_the_page_asks_no_network_for_anything(page: Page) -> None:
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        for name in ("href", "xlink:href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)


def test_the_browser_is_told_to_run_our_script_alone(page: Page) -> None:
    [policy] = [
        attributes["content"]
        for attributes in page.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    script = page.source.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_same_run_gives_the_same_page(finished_run: Path, page: Page, tmp_path: Path) -> None:
    again = report_run(finished_run, tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == page.source


# --- what it says


def test_the_results_are_those_of_the_first_and_last_row(page: Page, finished_run: Path) -> None:
    rows = metric_rows(finished_run)
    for row in (rows[0], rows[-1]):
        name = "eval/countdown/pass@4"
        value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in page.text
    change = rows[-1]["eval/countdown/pass@1"] - rows[0]["eval/countdown/pass@1"]
    assert f"{change:+.3f}" in page.text
    for row in rows[1:]:
        assert f"{row['explore/nu_mean']:.4g}" in page.text, "the numbers of the figure of nu"
    assert "sampled at temperature 1, no truncation; p_t scored at temperature 1" in page.text


def test_every_response_and_number_is_in_the_page(page: Page, finished_run: Path) -> None:
    """Read with pandas, beside the code that wrote the page."""
    [run] = page.data["runs"]
    assert run["stored"] == 3
    for step in run["steps"]:
        name = f"step_{step['step']:06d}.parquet"
        rollouts = pd.read_parquet(finished_run / "rollouts" / name)
        geometry = pd.read_parquet(finished_run / "geometry" / name)
        groups = step["groups"]
        for column, key in (("completion", "completion"), ("correct", "correct")):
            assert list(chain(*(group[key] for group in groups))) == rollouts[column].tolist()
        assert [group["prompt"] for group in groups] == rollouts["prompt"].tolist()[::4]
        for number in ("reward", "shaped_reward", "nu", "advantage", "tokens"):
            place = run["numbers"].index(number)
            shown = list(chain(*(group["numbers"][place] for group in groups)))
            np.testing.assert_allclose(shown, geometry[number], rtol=1e-4)
        stacked = np.stack(geometry["cosine"].tolist()).reshape(len(groups), 4, 4)
        for group, matrix in zip(groups, stacked, strict=True):
            pairs = [matrix[i, j] for i in range(4) for j in range(i + 1, 4)]
            np.testing.assert_allclose(np.array(group["cosines"]) / 100, pairs, atol=0.005001)


def test_the_command_is_what_was_typed(finished_run: Path, tmp_path: Path, undrawn: None) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    assert "does not say what was typed" in Page(report_run(folder)).text
    (folder / ".hydra").mkdir()
    typed = ["experiment=smoke", "task.source.template=make $target"]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(typed))
    shown = Page(report_run(folder)).texts["code"]
    assert "g2rl-train experiment=smoke 'task.source.template=make $target'" in shown


def test_alarms_are_found_again_in_the_rows(
    finished_run: Path, tmp_path: Path, undrawn: None
) -> None:
    """With a window of one step, 0.9 of the responses cut at the limit in step 2 is an alarm."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["health"]["window"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = json_lines(folder / "metrics.jsonl")
    for row, truncated in zip(rows[1:], (0.1, 0.9, 0.1), strict=True):
        row["train/truncated"] = truncated
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(report_run(folder))
    assert "90% of the responses reach the token limit" in page.text
    assert "No alarm was raised" not in page.text
    assert "No alarm was raised" in Page(finished_run / "report.html").text


def test_runs_of_other_kinds_have_a_page_too(
    finished_run: Path, tmp_path: Path, undrawn: None
) -> None:
    """A run of an earlier version, one without tables, and one that is under way."""
    old = Page(report_run(OLD_RUN, tmp_path / "old.html"))
    assert old.wrong == []

    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / "summary.json").unlink()
    for name in ("rollouts", "geometry", "probe"):
        shutil.rmtree(folder / name)
    rows = json_lines(folder / "metrics.jsonl")[:3]
    for row in rows:
        for name in [name for name in row if name.startswith(("explore/", "probe/"))]:
            del row[name]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(report_run(folder))
    assert page.wrong == []
    for text in ("has not finished", "wrote no rollouts/", "measured no gradient features"):
        assert text in page.text


def test_a_folder_without_a_run_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ReportError, match="there is no config"):
        report_run(tmp_path)
    for folder, message in ((tmp_path, "holds no run"), (tmp_path / "none", "there is no folder")):
        monkeypatch.setattr("sys.argv", ["g2rl-report", str(folder)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1
        assert message in capsys.readouterr().err


def test_damaged_files_of_a_run_are_named(
    finished_run: Path, tmp_path: Path, undrawn: None
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("a: [")
    assert "does not say what was typed" in Page(report_run(folder)).text
    place = RunFolder(folder).table("rollouts", 1)
    pd.DataFrame({"x": [1]}).to_parquet(place)
    with pytest.raises(ValueError, match=r"step 1 in rollouts/ has no column answer"):
        report_run(folder)
    place.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"step_000001\.parquet cannot be read as parquet"):
        report_run(folder)


# --- what a model wrote


def test_nothing_that_a_model_wrote_becomes_part_of_the_page(
    finished_run: Path, page: Page, tmp_path: Path
) -> None:
    """The same elements as without it, and every text whole."""
    folder = hostile_run(finished_run, tmp_path)
    hostile = Page(report_run(folder))
    assert hostile.wrong == []
    kinds = {"script", "style", "img", "iframe", "svg", "b", "a", "meta", "link", "form", "object"}
    for tag in kinds:
        assert len(hostile.all(tag)) == len(page.all(tag)), tag
    names = {name for _, attributes in hostile.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]

    [run] = hostile.data["runs"]
    group = run["steps"][-1]["groups"][0]
    for text in HOSTILE:
        assert text not in hostile.source, "only inside the packed data"
    assert group["completion"][0] == HOSTILE[0]
    assert group["prompt"] == HOSTILE[1]
    assert group["answer"][0] == HOSTILE[2]
    assert "\x00" not in group["completion"][1]
    assert group["completion"][1].startswith("␀␛[31mred␇ ⟨U+202E⟩gnp.exe")
    assert len(group["completion"][2]) < 5_000
    assert "996,000 characters are not in this page" in group["completion"][2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain π\n\tindented", "plain π\n\tindented"),
        ("\r\n", "␍\n"),
        ("\x7f\x85\x1f", "␡⟨U+0085⟩␟"),
        ("a\u200bb\u2066c\ufeff", "a⟨U+200B⟩b⟨U+2066⟩c⟨U+FEFF⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, shown: str) -> None:
    assert shown_text(text, 100) == shown


def test_the_middle_of_a_long_text_is_left_out_and_counted() -> None:
    text = "a" * 60 + "b" * 20 + "c" * 20
    assert shown_text(text, 100) == text
    assert shown_text(text, 80) == (
        "a" * 60 + "\n[… 20 characters are not in this page …]\n" + "c" * 20
    )


# --- how much of a run


def test_steps_are_chosen_at_equal_distances_with_both_ends() -> None:
    assert chosen_steps([1, 2, 3], 5) == [1, 2, 3]
    assert chosen_steps(range(101), 5) == [0, 25, 50, 75, 100]
    assert chosen_steps([10, 20, 30], 1) == [30]
    assert chosen_steps([10, 20, 30], 2) == [10, 30]


def test_a_small_budget_keeps_whole_steps(finished_run: Path) -> None:
    """Each step has 16 responses."""
    assert [step["step"] for step in responses_of(finished_run, Budget(32))["steps"]] == [1, 3]
    assert [step["step"] for step in responses_of(finished_run, Budget(1))["steps"]] == [3]
    tight = responses_of(finished_run, Budget(total_characters=1))
    assert [step["step"] for step in tight["steps"]] == [3]
    assert tight["stored"] == 3
    with pytest.raises(ValueError, match="four characters"):
        Budget(characters=3)


def test_numbers_have_five_digits() -> None:
    """Python's own formatting is the oracle."""
    values = [1.0, -0.0, 123456.789, -1.23456789e-7, 0.1 + 0.2, 2.0 / 3.0, 1e20]
    assert short_numbers(values) == [float(f"{value:.5g}") for value in values]
    assert short_numbers([None, float("nan"), float("inf"), 2.0]) == [None, None, None, 2]
    assert short_numbers(None) is None


def test_cosines_are_packed_by_pairs() -> None:
    assert hundredths([[1, 0.5, -0.25], [0.5, 1, 0.126], [-0.25, 0.126, 1]]) == [50, -25, 13]
    assert hundredths([[1.0]]) == []
    data = {"text": "</script> é \u2028", "numbers": [1, 2.5, None]}
    assert unpacked(packed(data)) == data
    assert "<" not in packed(data)


# --- several runs


def twin(finished_run: Path, folder: Path, seed: int, lam: float, bonus: float) -> Path:
    """A run that differs in its seed, a setting and its last pass@1."""
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "model"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["seed"] = seed
    config["exploration"]["lam"] = lam
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = json_lines(folder / "metrics.jsonl")
    rows[-1]["eval/countdown/pass@1"] = bonus
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_are_compared_seed_by_seed(finished_run: Path, tmp_path: Path, undrawn: None) -> None:
    """Differences 0.2 and 0.4: mean 0.3, t-interval 0.3 ± 12.706 · 0.1."""
    ends = {(0, 1.0): 0.1, (0, 2.0): 0.3, (1, 1.0): 0.2, (1, 2.0): 0.6}
    folders = []
    for (seed, lam), value in ends.items():
        folders.append(twin(finished_run, tmp_path / f"{lam}-{seed}", seed, lam, value))
    page = Page(report(folders, tmp_path / "all.html", Budget(responses=64)))
    assert page.wrong == []
    assert "+0.300 [-0.971, +1.571]" in page.text
    assert "0.150 [0.000, 0.785]" in page.text, "lam=1: mean of 0.1 and 0.2; a share"
    assert [run["name"] for run in page.data["runs"]] == ["1.0-0", "1.0-1", "2.0-0", "2.0-1"]
    assert [len(run["steps"]) for run in page.data["runs"]] == [1, 1, 1, 1], "a share for each"

    # the folder above holds the same runs; one seed has no interval, and the page says so
    alone = Page(report([tmp_path / "1.0-0", tmp_path / "2.0-0"], tmp_path / "two.html"))
    assert "share 1 seed, and a paired interval needs at least two" in alone.text
    single = Page(report([tmp_path / "1.0-0"]))
    assert "Before and after training" in single.text


@pytest.mark.parametrize(
    "choices",
    [
        Choices(),
        Choices(
            by=["exploration.lam"],
            metrics=["eval/*/pass@1", "train/accuracy"],
            against="lam=2",
            family=["eval/*/pass@1"],
        ),
        Choices(by=["exploration.lam"], against="lam=2", partial=True),
    ],
)
def test_the_page_shows_what_compare_prints(
    finished_run: Path, tmp_path: Path, undrawn: None, choices: Choices
) -> None:
    """The same choices, and every number of every table that is printed."""
    folders = []
    for seed, lam, value in ((0, 1.0, 0.1), (1, 1.0, 0.2), (0, 2.0, 0.3), (1, 2.0, 0.6)):
        folders.append(twin(finished_run, tmp_path / f"{lam}-{seed}", seed, lam, value))
    (folders[-1] / "summary.json").unlink()
    page = Page(report(folders, tmp_path / "all.html", Budget(responses=64), choices))
    table = (compare(folders, tmp_path / "out", choices) / "table.md").read_text()

    # after training, and the contrasts; those before training are of table.md alone
    after, _, rest = table.partition("First value of each run")
    _, _, contrasts = rest.partition("Contrasts to")
    lines = (after + contrasts).splitlines()
    cells = {cell.strip(" *") for line in lines if line[:1] == "|" for cell in line.split("|")}
    assert len(cells) > 15
    shown = page.text.replace("**", "")
    assert [cell for cell in cells if cell.strip("-") and cell not in shown] == []
    assert ("2.0-1" in [run["name"] for run in page.data["runs"]]) is choices.partial


def test_one_run_is_compared_with_nothing(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is one run: --by, --metrics, --against and --family"):
        report([finished_run], tmp_path / "page.html", choices=Choices(against="none"))


def test_runs_of_unlike_problems_stand_apart(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With drawings, whose ids are made of titles."""
    folders = []
    for name, limit in (("few", 4), ("more", 8)):
        folder = twin(finished_run, tmp_path / "runs" / name, 0, 1.0, 0.5)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["benchmark"]["limit"] = limit
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        folders.append(folder)
    page = Page(report([tmp_path / "runs"], tmp_path / "page.html", Budget(responses=64)))
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "an id stands twice"
    assert "benchmark=countdown limit=4: after training" in page.text
    assert "benchmark=countdown limit=8: after training" in page.text
    assert "Differences to" not in page.text

    # and in folders of their own, each whole; what is drawn there is that of any comparison
    drawn: list[Path] = []
    monkeypatch.setattr(
        compare_job, "draw_figures", lambda compared, geometry, out: drawn.append(out) or []
    )
    out = compare([tmp_path / "runs"], tmp_path / "out")
    names = ["countdown-limit-4", "countdown-limit-8"]
    assert sorted(path.name for path in out.glob("[!.]*")) == names
    assert sorted(drawn) == [out / name for name in names]
    for name in names:
        assert "| g2rl | 1 | 0.500" in (out / name / "table.md").read_text()
