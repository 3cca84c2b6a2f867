"""Which runs can be compared at all: those that were measured on the same held-out problems.

Accuracies on different problems say nothing about each other, whatever the arms are called. So a
comparison is made for each benchmark by itself. What was trained on does not matter here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten

from g2rl.analysis.comparison.runs import Run, setting_text

OF_THE_ANSWERS = frozenset(
    (
        # where a benchmark is made, and where a copy of its rows lies on this machine
        *("name", "_target_", "_convert_", "local_name", "data_dir"),
        # how problems are worded, and responses asked for
        *("template", "instruction"),
        *("samples", "ks", "temperature", "top_p", "top_k", "max_tokens"),
        # how they are graded
        *("boxed_only", "verifier", "reward", "columns", "messages"),
        *("right_from", "failed_reward", "on_error"),
    )
)
"""Settings of benchmarks that do not say which problems there are: they make arms like any other
setting. All others choose or make the problems, those of a benchmark of one's own too."""

MOST_CHARACTERS = 40
"""Of a value in a label; some are longer, and folders are named after labels."""

Benchmarks = dict[str, frozenset[tuple[str, str]]]
"""Name of each benchmark of a run to the settings that choose its problems."""


def benchmarks_of(run: Run) -> Benchmarks:
    """What a run was measured on."""
    # one benchmark, or several below `suite`, each with all that lies below its settings
    nodes: dict[str, dict[str, object]] = {}
    for key, value in run.settings.items():
        if key.startswith("benchmark."):
            path = key.removeprefix("benchmark.").split(".")
            depth = 2 if path[0] == "suite" else 0
            node, setting = ".".join(path[:depth]), ".".join(path[depth:])
            nodes.setdefault(node, {})[setting] = value

    # what is not null beside `suite` holds for each of its members
    members = [settings for node, settings in nodes.items() if node]
    own = {key: value for key, value in nodes.get("", {}).items() if value is not None}
    all_settings = [settings | own for settings in members] or [own]

    # by name, or by the module that makes a benchmark without a name of its own
    found: Benchmarks = {}
    for settings in all_settings:
        target = str(settings.get("_target_") or "")
        name = settings.get("name") or target.rpartition(".")[0].rpartition(".")[2]
        if name:
            found[str(name)] = _problems_of(settings)
    return found


def _problems_of(settings: Mapping[str, object]) -> frozenset[tuple[str, str]]:
    """What of a benchmark's settings chooses or makes its problems; null is as good as absent."""
    chosen: set[tuple[str, str]] = set()
    for key, value in settings.items():
        # the setting decides, however deep below it a value lies
        if key.partition(".")[0] not in OF_THE_ANSWERS and value is not None:
            chosen.add((key, setting_text(value)))
    return frozenset(chosen)


def comparable(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that can be compared, by what they were measured on, in the order of the runs.

    Runs with a benchmark in common, of the same problems, belong together, also by way of a third.

    Returns:
        A label such as ``benchmark=countdown`` to its runs; where two are of one benchmark, the
        settings in which its problems differ follow, ``benchmark=countdown limit=4``.
    """
    groups: list[tuple[list[Benchmarks], list[Run]]] = []
    for run in runs:
        mine = benchmarks_of(run)

        # every group that shares a benchmark with this run becomes part of its group
        apart: list[tuple[list[Benchmarks], list[Run]]] = []
        known: list[Benchmarks] = []
        members: list[Run] = []
        for group in groups:
            if any(_shared(mine, other) for other in group[0]):
                known += group[0]
                members += group[1]
            else:
                apart.append(group)
        groups = [*apart, ([*known, mine], [*members, run])]

    # in the order of the runs, each by its name
    groups.sort(key=lambda group: runs.index(group[1][0]))
    labels = _labels([known for known, _ in groups])
    return {label: members for label, (_, members) in zip(labels, groups, strict=True)}


def _shared(one: Benchmarks, other: Benchmarks) -> bool:
    """Whether two runs have a benchmark of the same problems; so have two without any."""
    if not one or not other:
        return one == other
    return any(name in other and other[name] == settings for name, settings in one.items())


def _labels(groups: Sequence[Sequence[Benchmarks]]) -> list[str]:
    """A name for each group: its benchmarks, and what chooses their problems where names repeat."""
    names: list[str] = []
    for known in groups:
        names.append("+".join(dict.fromkeys(name for one in known for name in one)))

    labels: list[str] = []
    for name, known in zip(names, groups, strict=True):
        words = [f"benchmark={name}" if name else "no benchmark"]
        if names.count(name) > 1:
            # only what the groups of this name do not have in common
            namesakes: list[frozenset[tuple[str, str]]] = []
            for other, group in zip(names, groups, strict=True):
                if other == name:
                    namesakes.append(frozenset().union(*group[0].values()))
            mine = frozenset().union(*known[0].values())
            common = frozenset.intersection(*namesakes)
            for key, value in sorted(mine - common):
                words.append(f"{key}={shorten(value, MOST_CHARACTERS, placeholder='...')}")
        labels.append(" ".join(words))

    # members of suites, and long settings, may differ in more than fits a name
    told: list[str] = []
    for place, label in enumerate(labels):
        twins = labels[:place].count(label)
        told.append(f"{label} ({twins + 1})" if twins else label)
    return told
