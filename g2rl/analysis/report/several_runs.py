"""The sections of a page that compare runs: arms over seeds, differences seed by seed, curves.

The statistics are those of `g2rl-analyze compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from g2rl.analysis.captions import one_or_mixed, sampled_and_scored
from g2rl.analysis.comparison.compared import Compared
from g2rl.analysis.comparison.runs import differing
from g2rl.analysis.figures.curves import arm_colours, curve, learning_panels
from g2rl.analysis.report.drawings import Drawing, Line, lines_drawing
from g2rl.analysis.report.facts import MEASURED_BY
from g2rl.analysis.report.one_run import Section
from g2rl.analysis.tables import NOTHING

GEOMETRY = {
    "nu_mean": ("Novelty ν", "ν"),
    "cosine": ("Mean gradient cosine, all pairs", "cosine"),
    "cosine_correct_correct": ("Mean gradient cosine, correct-correct", "cosine"),
    "cosine_correct_wrong": ("Mean gradient cosine, correct-wrong", "cosine"),
    "negative_pairs": ("Negative pairs", "share of pairs"),
    "identity_ratio": ("Identity ratio", "ratio"),
    "identical_pairs": ("Identical pairs", "share of pairs"),
}
"""Quantities of gradient features to titles and units of their figures."""


class Comparison:
    """The sections about arms that were measured on the same problems.

    Args:
        compared: the arms.
        place: ends the ids of the sections where a page has several comparisons; "" for one.
    """

    def __init__(self, compared: Compared, place: str = "") -> None:
        self.compared = compared
        self.arms = compared.arms
        self.frame = compared.frame
        self.colours = arm_colours(list(self.arms))
        self.place = place

    def sections(self) -> list[Section]:
        """Everything about the arms, in the order of the page."""
        sections = [self._arms()]
        if self.compared.against is not None:
            sections.append(self._differences())
        sections.append(self._learning())
        geometry = self._geometry()
        if geometry.drawings:
            sections.append(geometry)
        return [*sections, self._settings()]

    def _arms(self) -> Section:
        """The last value of each metric, mean over seeds."""
        intro = [
            "The last value of each run: mean over seeds [95 % t-interval over seeds]. The "
            "interval says what to expect of new training runs on the same held-out problems; of "
            "one seed there is none."
        ]
        return self._section("results", "After training", intro, rows=self.compared.arm_rows())

    def _section(
        self,
        name: str,
        title: str,
        intro: list[str],
        drawings: Sequence[Drawing] = (),
        rows: Sequence[list[str]] = (),
    ) -> Section:
        """A section of this comparison, which says on what was measured where there are several."""
        if self.place:
            name = f"{name}-{self.place}"
        return Section(name, self._titled(title), intro, drawings, rows)

    def _titled(self, title: str) -> str:
        """A title that no other comparison of the page has: ids are made of it."""
        if not self.place:
            return title
        return f"{self.compared.name}: {title[0].lower()}{title[1:]}"

    def _differences(self) -> Section:
        """What every other arm changes against one, paired by seed."""
        # arms of one seed, or without a shared one, have no interval
        compared = self.compared
        intro = [compared.explanation().replace("`", "")]
        results = [one.result for one in compared.found if one.result is not None]
        shared = max((result.seeds for result in results), default=0)
        if shared < 2:
            intro.append(
                f"The arms share {shared} {'seed' if shared == 1 else 'seeds'}, and a paired "
                "interval needs at least two: what differs here may differ by chance alone. For "
                "intervals over problems, evaluate both with g2rl-eval and compare them with "
                "g2rl-eval compare=."
            )
        title = f"Differences to {compared.against}"
        return self._section("differences", title, intro, rows=compared.contrast_rows())

    def _learning(self) -> Section:
        """Curves of all arms."""
        drawings: list[Drawing] = []
        for metric, (title, unit) in learning_panels(self.frame).items():
            lines = self._lines(self.frame, metric)
            if lines:
                share = unit.startswith("share")
                title = title[0].upper() + title[1:]
                drawings.append(lines_drawing(self._titled(title), unit, lines, share=share))
        intro = [
            "Lines are means over seeds, bands 95 % t-intervals over seeds (none for one seed). A "
            "metric of every step is averaged over blocks of steps."
        ]
        return self._section("learning", "Learning", intro, drawings)

    def _geometry(self) -> Section:
        """What novelty and cosines did in each arm that measured them."""
        drawings: list[Drawing] = []
        caption = self._conditions()
        for quantity, (title, unit) in GEOMETRY.items():
            # a training signal and an observer measure the same under different names
            names = [f"{place}{quantity}" for place in MEASURED_BY]
            rows = self.frame[self.frame["metric"].isin(names)].assign(metric=quantity)
            lines = self._lines(rows, quantity)
            if lines:
                title = self._titled(title)
                drawings.append(lines_drawing(title, unit, lines, caption=caption))

        # an arm that is missing must not look like one without novelty
        without = self._arms_without_cosines()
        intro = ["Of the training responses of each arm, whether g2rl trains or observes."]
        if without:
            intro.append(
                f"Not measured in {', '.join(without)}: train with exploration.observe=[g2rl]."
            )
        return self._section("geometry", "Novelty and geometry", intro, drawings)

    def _conditions(self) -> str:
        """How training responses were sampled and scored, which every cosine depends on."""
        captions: list[str] = []
        for run in self.compared.runs:
            captions.append(
                sampled_and_scored(
                    run.settings["task.temperature"],
                    run.settings["task.top_p"],
                    run.settings["task.top_k"],
                    run.settings.get("exploration.feature_temperature"),
                )
            )
        return one_or_mixed(captions)

    def _arms_without_cosines(self) -> list[str]:
        """Labels of arms in which no run measured gradient features."""
        names = [f"{place}cosine" for place in MEASURED_BY]
        measured = set(self.frame.loc[self.frame["metric"].isin(names), "arm"])
        return [label for label in self.arms if label not in measured]

    def _lines(self, frame: pd.DataFrame, metric: str) -> list[Line]:
        """One line an arm that reports a metric."""
        lines: list[Line] = []
        for label, colour in self.colours.items():
            drawn = curve(frame, label, metric)
            if drawn is None:
                continue

            # one seed has no band
            low, high = list(drawn.low), list(drawn.high)
            if drawn.seeds < 2:
                low, high = [], []
            lines.append(Line(label, colour, list(drawn.steps), list(drawn.mean), low, high))
        return lines

    def _settings(self) -> Section:
        """In which settings the runs differ."""
        # a column for every setting that tells runs apart
        keys = differing(self.compared.runs)
        rows = [["arm", "seed", *keys, "state", "folder"]]
        for label, members in self.arms.items():
            for run in members:
                values = [_shown(run.settings, key) for key in keys]
                state = "finished" if run.finished else "unfinished"
                rows.append([label, str(run.seed), *values, state, str(run.folder)])
        intro = ["The settings in which the runs differ, beside the seed."]
        return self._section("compared", "What is compared", intro, rows=rows)


def _shown(settings: Mapping[str, object], key: str) -> str:
    """A setting as a cell; runs of other signals may not have it."""
    if key not in settings:
        return NOTHING
    value = settings[key]
    return f"{value:g}" if isinstance(value, float) else str(value)
