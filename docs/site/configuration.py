"""The configuration reference: every group, choice and setting of conf/, with its comment.

    python -m docs.site.configuration OUT      writes OUT/configuration/*.md and the index

The pages are made from the files themselves, so they cannot tell anything else than these do. A
file of conf/ looks like this, and each of its lines becomes one row of a table:

    # What the choice is for.
    defaults:
      - /encoder@_global_.encoder: ngram
    lr: 2.0e-4                 # peak learning rate
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"

COMMANDS = {
    "train": "g2rl-train",
    "evaluate": "g2rl-eval",
    "analyze_geometry": "g2rl-analyze geometry",
    "analyze_fidelity": "g2rl-analyze fidelity",
}
"""The files at the top of conf/, and the command that reads each. Others go by their own name."""

GROUPS = {
    "model": "the policy",
    "task": "what it is trained on",
    "benchmark": "held-out problems",
    "exploration": "the signal",
    "partition": "which responses count as the same",
    "encoder": "sentence embeddings",
    "algorithm": "advantages and loss",
    "engine": "what draws the responses",
    "parallel": "one process or several",
    "tracking": "mirrors of the metrics",
    "experiment": "studies: several settings by one name",
    "hydra/launcher": "how the arms of a sweep are started",
}
"""The order of the groups, and what each is. A group without an entry here comes last."""

COMMENT = re.compile(r"^:?\s+#\s?(.*)$")
HYDRAS_OWN = ("hydra.help.", "hydra.job_logging.")
"""What a command says to Hydra about itself; no user changes it."""
NOT_SETTINGS = ("_target_", "_convert_", "_partial_", "_recursive_")


@dataclass(slots=True)
class Setting:
    """One line of a file: a name from the top of the file, its value, the comment behind it."""

    name: str
    default: str
    comment: str


@dataclass(slots=True)
class ConfigFile:
    """What one file of conf/ says."""

    path: Path
    about: list[str]
    """Comment lines before the first setting."""
    is_global: bool = False
    """Whether its settings stand at the top of the configuration, whatever folder it lies in."""
    targets: list[Setting] = field(default_factory=list)
    """The classes and functions that it builds."""
    bases: list[Setting] = field(default_factory=list)
    """What it takes over or chooses besides: the lines of `defaults`."""
    settings: list[Setting] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The file without its ending: what a user types."""
        return self.path.stem


def read_config_file(path: Path) -> ConfigFile:
    """Read a file of conf/ with its comments."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = ConfigFile(path, [])

    # the comments before the first line of another kind
    head = 0
    while head < len(lines) and lines[head].startswith("#"):
        if lines[head].startswith("# @package"):
            found.is_global = "_global_" in lines[head]
        else:
            found.about.append(lines[head][1:].removeprefix(" "))
        head += 1

    # then what the file says, with lines that hold a comment alone
    rows: list[tuple[int, Setting]] = []
    for number in range(head, len(lines)):
        if lines[number].lstrip().startswith("#"):
            rows.append((number, Setting("", "", lines[number].strip(" #"))))
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        rows += rows_of(root, "", lines)
    for _, setting in sorted(rows, key=lambda row: row[0]):
        sort_in(found, setting)
    return found


def rows_of(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[tuple[int, Setting]]:
    """What a mapping says, each with the number of its line; names are full.

    The entries of `defaults` come one by one. A mapping inside gives a row of its own, if a comment
    says what it is, and then its rows.
    """
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        number = key.start_mark.line
        if name == "defaults" and isinstance(value, yaml.SequenceNode):
            for entry in value.value:
                comment = comment_behind(last_scalar(entry), lines)
                yield entry.start_mark.line, Setting(name, source_of(entry, lines), comment)
        elif isinstance(value, yaml.MappingNode) and value.value:
            comment = comment_behind(value if value.flow_style else key, lines)
            if comment:
                yield number, Setting(f"{name}.*", "", comment)
            yield from rows_of(value, f"{name}.", lines)
        else:
            yield number, Setting(name, source_of(value, lines), comment_behind(value, lines))


def last_scalar(node: yaml.Node) -> yaml.Node:
    """The last word of an entry: a mapping over lines ends only where the next line begins."""
    while isinstance(node, yaml.MappingNode) and node.value:
        node = node.value[-1][1]
    return node


def is_long_text(node: yaml.Node) -> bool:
    """Whether a value is a text of several lines."""
    return isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")


def source_of(node: yaml.Node, lines: list[str]) -> str:
    """A value as the file has it, on one line; a long text is not repeated."""
    if is_long_text(node):
        return "(a text of several lines)"
    if isinstance(node, yaml.MappingNode) and node.value:
        pairs = [f"{key.value}: {source_of(value, lines)}" for key, value in node.value]
        return ", ".join(pairs)
    text = "\n".join(lines)
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())


def comment_behind(node: yaml.Node, lines: list[str]) -> str:
    """The comment behind a name or a value, on the line where it ends."""
    if is_long_text(node) or node.end_mark.line >= len(lines):
        return ""
    found = COMMENT.search(lines[node.end_mark.line][node.end_mark.column :])
    return found.group(1).strip() if found else ""


def sort_in(found: ConfigFile, setting: Setting) -> None:
    """Put a line where it belongs: what the file builds, what it takes over, or a setting."""
    last_name = setting.name.rpartition(".")[2]
    if last_name == "_target_":
        found.targets.append(setting)
    elif setting.name == "defaults":
        found.bases.append(setting)
    elif last_name not in NOT_SETTINGS:
        found.settings.append(setting)


def groups() -> list[str]:
    """The folders of conf/ that hold choices, in the order of the pages."""
    folders = set()
    for path in CONF.rglob("*.yaml"):
        folder = path.parent.relative_to(CONF)
        if folder.name != "base" and folder.parts:
            folders.add(folder.as_posix())
    ranks = list(GROUPS)
    return sorted(folders, key=lambda name: (ranks.index(name) if name in ranks else 99, name))


def cell(text: str) -> str:
    """Text of a comment in a table: Markdown's own characters stand for themselves."""
    return re.sub(r"([|*_<>\[\]\\`])", r"\\\1", text)


def code(text: str) -> str:
    """A value in a table as code; nothing stays nothing."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def prefix_of(path: Path, is_global: bool) -> str:
    """What stands before the names of a file's settings when a user types them."""
    folder = path.parent.relative_to(CONF)
    parts = [part for part in folder.parts if part != "base"]
    return "" if is_global or not parts else ".".join(parts) + "."


def section(found: ConfigFile, title: str) -> str:
    """One file as a part of a page: what it is for, what it takes over, its settings."""
    out = [f"## {title}", ""]
    out += about_lines(found.about)
    prefix = prefix_of(found.path, found.is_global)
    for target in found.targets:
        if not target.name.startswith("hydra."):
            out += [f"Builds {linked(target.default)}.", ""]

    # what it takes over, and what it chooses besides; `_self_` only says in which order
    choices = [choice_line(base) for base in found.bases if base.default != "_self_"]
    out += [*choices, ""] if choices else []

    settings = [one for one in found.settings if not one.name.startswith(HYDRAS_OWN)]
    if settings:
        out += ["| setting | default | meaning |", "|---|---|---|"]
        for setting in settings:
            name, default = code(setting.name and prefix + setting.name), code(setting.default)
            out.append(f"| {name} | {default} | {cell(setting.comment)} |")
        out.append("")
    return "\n".join(out)


def linked(name: str) -> str:
    """The name of a class or function, with a link to the API reference if it is one of g2rl."""
    return f"[`{name}`][{name}]" if name.startswith("g2rl.") else f"`{name}`"


def choice_line(base: Setting) -> str:
    """A line of `defaults` in words: `/encoder@_global_.encoder: ngram` chooses encoder=ngram."""
    place, _, choice = base.default.removeprefix("override ").partition(": ")
    place = place.partition("@")[0].lstrip("/")
    words = f"- takes over `{place}`"
    if choice:
        words = f"- chooses `{place}={choice}`"
    return words + (f": {cell(base.comment)}" if base.comment else "")


def about_lines(about: list[str]) -> list[str]:
    """The comments at the head of a file: sentences as text, commands as they are typed."""
    out: list[str] = []
    for line in about:
        is_command = line.startswith(("g2rl", " ", "torchrun", "make "))
        out += ["    " + line.strip() if is_command else cell(line)]
    pieces: list[str] = []
    for before, line in zip(["", *out], out, strict=False):
        # a block of code needs an empty line before and behind it
        if pieces and line.startswith("    ") != before.startswith("    "):
            pieces.append("")
        pieces.append(line)
    return [*pieces, ""] if pieces else []


def command_page(path: Path) -> str:
    """The page of a file at the top of conf/."""
    found = read_config_file(path)
    command = COMMANDS.get(path.stem, path.stem)
    return "\n".join([f"# {command}", "", section(found, f"Settings of conf/{path.name}")])


def group_page(group: str) -> str:
    """The page of a group: what every choice shares, then the choices by name."""
    folder = CONF / group
    files = sorted(folder.glob("*.yaml"))
    shared = sorted((folder / "base").glob("*.yaml"))
    out = [f"# {group}=", ""]
    if group in GROUPS:
        out += [f"`{group}=CHOICE` chooses {GROUPS[group]}. There are {len(files)} choices:", ""]
    names = [f"[`{path.stem}`](#{anchor(group, path.stem)})" for path in files]
    out += [", ".join(names) + ".", ""]

    # `base` first: the choices name only what differs from it
    for path in shared:
        found = read_config_file(path)
        out += [section(found, f"Shared: base/{found.name}")]
    for path in files:
        found = read_config_file(path)
        out += [section(found, f"{group}={found.name}")]
    return "\n".join(out)


def anchor(group: str, choice: str) -> str:
    """The anchor of a choice on its group's page."""
    return re.sub(r"[^\w-]", "", f"{group}={choice}".lower())


def file_name(group: str) -> str:
    """The page of a group: hydra/launcher is hydra_launcher.md."""
    return group.replace("/", "_") + ".md"


def index_page(commands: list[Path]) -> str:
    """The first page of the reference."""
    out = [
        "# Configuration reference",
        "",
        "Every setting of every command, with its default and its comment, made from the files of",
        "`conf/`. On the command line a setting is `NAME=VALUE` and a choice is `GROUP=CHOICE`:",
        "",
        "    g2rl-train exploration=g2rl exploration.lam=0.5 seed=1",
        "",
        "A name that a file does not have yet takes a plus sign:",
        "`+exploration.settings.passk.k=8`.",
        "A value `???` must be given. `${...}` stands for the value of another setting.",
        "",
        "| command | its own settings |",
        "|---|---|",
    ]
    for path in commands:
        command = COMMANDS.get(path.stem, path.stem)
        out.append(f"| `{command}` | [{path.name}]({path.stem}.md) |")

    out += ["", "| group | chooses | choices |", "|---|---|---|"]
    for group in groups():
        names = ", ".join(f"`{path.stem}`" for path in sorted((CONF / group).glob("*.yaml")))
        out.append(f"| [`{group}=`]({file_name(group)}) | {GROUPS.get(group, '')} | {names} |")
    return "\n".join(out) + "\n"


def write_pages(folder: Path) -> list[tuple[str, str]]:
    """Write all pages into a folder.

    Returns:
        Title and file name of each page, in the order in which they are read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = list(COMMANDS)
    commands = sorted(
        CONF.glob("*.yaml"),
        key=lambda path: (known.index(path.stem) if path.stem in known else 99, path.stem),
    )
    pages = [("Overview", "index.md", index_page(commands))]
    for path in commands:
        pages.append((COMMANDS.get(path.stem, path.stem), f"{path.stem}.md", command_page(path)))
    for group in groups():
        pages.append((f"{group}=", file_name(group), group_page(group)))

    for _, name, text in pages:
        (folder / name).write_text(text, encoding="utf-8")
    return [(title, name) for title, name, _ in pages]


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]) / "configuration")
