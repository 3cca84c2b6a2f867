"""Build the documentation site: `make docs`.

    python -m docs.site.build            build/site/index.html, with warnings as errors
    python -m docs.site.build --pages    the pages as Markdown only, in build/site-pages

The pages lie where a reader of the repository looks for them: docs/, the README of each study, the
changelog. They are copied into one folder, with links that fit, next to the pages that are made
from conf/ and from docstrings. Then Zensical makes the site of it, and `check` looks at what came
out. Zensical is the successor of MkDocs and Material by the latter's authors, and reads the same
settings: with both installed, `mkdocs build -f build/mkdocs.yml` makes nearly the same site.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import yaml

from docs.site import api, check, configuration

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PAGES = ROOT / "build" / "site-pages"
SITE = ROOT / "build" / "site"

LINK = re.compile(r"(?P<before>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<target>[^)\s]+)\)")
IMAGES = (".png", ".svg", ".jpg", ".gif")
ELSEWHERE = ("http://", "https://", "mailto:")
RENAMED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "notebooks/README.md": "notebooks.md",
    "speed/RESULTS.md": "speed.md",
}
"""Pages outside docs/ and experiments/, and what they are called on the site."""

PROGRESS = ("Build started", "Build finished", "No issues found")
"""How lines of Zensical begin that complain of nothing."""
COLOUR = re.compile(r"\x1b\[[\d;]*m")

SHIM = "iframe-worker.js"
SHIM_ELSEWHERE = "https://unpkg.com/iframe-worker/shim"
"""A script without which search does not work on files, and from where Zensical would load it."""


def pages() -> dict[str, str]:
    """Every page of the repository that is on the site: where it lies, and its file on the site."""
    found = {path: name for path, name in RENAMED.items() if (ROOT / path).exists()}
    for path in sorted((ROOT / "docs").glob("*.md")):
        found[f"docs/{path.name}"] = path.name
    for path in studies():
        folder = path.parent.relative_to(ROOT)
        name = folder.with_suffix(".md")
        if path.name != "README.md":
            name = folder / path.name
        found[path.relative_to(ROOT).as_posix()] = name.as_posix()
    return found


def studies() -> list[Path]:
    """The pages of experiments/: the README of each study, and what lies beside it."""
    return sorted((ROOT / "experiments").rglob("*.md"))


def title_of(page: Path) -> str:
    """The first heading of a page."""
    found = re.search(r"(?m)^# (.+)$", page.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{page.relative_to(ROOT)} has no heading: begin it with '# TITLE'")
    return found.group(1)


def copy_page(path: str, known: dict[str, str], folder: Path) -> None:
    """Copy a page to its place on the site, with links that lead from there.

    Raises:
        ValueError: a link leads to nothing.
    """
    lines = []
    is_code = False
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_code = not is_code
        lines.append(line if is_code else relink(line, path, known, folder))
    target = folder / known[path]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def relink(line: str, path: str, known: dict[str, str], folder: Path) -> str:
    """A line with links that lead from the page's place on the site.

    Links to pages and pictures stay links. What leads to another file of the repository becomes its
    name alone, because the site does not hold the code.
    """

    def replace(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if not target or target.startswith(ELSEWHERE):
            return found[0]
        place = resolve(target, path)
        suffix = f"#{anchor}" if anchor else ""

        # the README is the first page here
        page = "docs/index.md" if place == "README.md" else place
        if page in known:
            return f"{found['before']}({relative(known[page], known[path])}{suffix})"
        if place.endswith(IMAGES):
            copied = folder / "files" / place
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / place, copied)
            return f"{found['before']}({relative(f'files/{place}', known[path])})"
        return found["before"].strip("![]")

    return LINK.sub(replace, line)


def resolve(target: str, path: str) -> str:
    """The file of the repository that a link of a page leads to.

    Raises:
        ValueError: there is none.
    """
    place = os.path.normpath(PurePosixPath(path).parent / target)
    if place.startswith("..") or not (ROOT / place).exists():
        raise ValueError(f"{path} links to {target}, which does not exist")
    return place


def relative(target: str, page: str) -> str:
    """A link from one page of the site to another file of it."""
    return os.path.relpath(target, PurePosixPath(page).parent)


def write_studies(known: dict[str, str], folder: Path) -> list[tuple[str, str]]:
    """Write the first page of the experiments; returns title and file of each page."""
    out = [
        "# Experiments",
        "",
        "Studies with commands, seeds, hardware and results. Negative results stay.",
        "",
    ]
    written = [("Overview", "index.md")]
    for path in studies():
        name = known[path.relative_to(ROOT).as_posix()]
        name = PurePosixPath(name).relative_to("experiments").as_posix()
        out.append(f"- [{title_of(path)}]({name})")
        written.append((name.removesuffix(".md").replace("_", " "), name))
    (folder / "index.md").write_text("\n".join(out) + "\n", encoding="utf-8")
    return written


def navigation(known: dict[str, str], made: dict[str, list[tuple[str, str]]]) -> list[object]:
    """The navigation of nav.yml with files of the site.

    Raises:
        ValueError: it names a page that does not exist, or a page has no place in it.
    """
    entries = yaml.safe_load((HERE / "nav.yml").read_text(encoding="utf-8"))
    found = list(placed(entries, known, made))
    text = yaml.safe_dump(found)
    for path, name in known.items():
        is_study = path.startswith("experiments/")
        if not is_study and not re.search(rf"(?m)[: ]{re.escape(name)}$", text):
            raise ValueError(f"{path} has no place in docs/site/nav.yml: give it one")
    return found


def placed(
    entries: list[dict[str, object]],
    known: dict[str, str],
    made: dict[str, list[tuple[str, str]]],
) -> Iterator[dict[str, object]]:
    """Entries of nav.yml with files of the site, without optional pages that do not exist.

    Raises:
        ValueError: a page does not exist.
    """
    for entry in entries:
        [(title, value)] = entry.items()
        if isinstance(value, list):
            yield {title: list(placed(value, known, made))}
            continue
        if isinstance(value, dict) and "made" in value:
            folder = value["made"]
            yield {title: [{name: f"{folder}/{file}"} for name, file in made[folder]]}
            continue
        path = value["optional"] if isinstance(value, dict) else value
        if path in known:
            yield {title: known[path]}
        elif not isinstance(value, dict):
            raise ValueError(f"docs/site/nav.yml names {path}, which does not exist")


def write_pages(folder: Path) -> list[object]:
    """Write everything that the site needs into a folder, anew; returns the navigation."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    known = pages()
    for path in known:
        copy_page(path, known, folder)
    shutil.copyfile(HERE / "site.css", folder / "site.css")

    made = {
        "experiments": write_studies(known, folder / "experiments"),
        "configuration": configuration.write_pages(folder / "configuration"),
        "api": api.write_pages(folder / "api"),
    }
    return navigation(known, made)


def write_settings(navigation: list[object]) -> Path:
    """Write the settings of the site: those of mkdocs.yml, with folders and navigation."""
    settings = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    settings += yaml.safe_dump(
        {"docs_dir": PAGES.name, "site_dir": SITE.name, "nav": navigation}, sort_keys=False
    )
    path = PAGES.parent / "mkdocs.yml"
    path.write_text(settings, encoding="utf-8")
    return path


def build(settings: Path) -> list[str]:
    """Make the site of the pages; returns everything that is wrong, one line each."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f"]
    done = subprocess.run(
        [*command, str(settings)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # its own strictness does not count what the reader of docstrings complains of
    said = COLOUR.sub("", done.stdout).partition("Traceback (")[0]
    found = [line for line in said.splitlines() if line and not line.startswith(PROGRESS)]
    if done.returncode:
        return [*found, f"zensical ended with {done.returncode}"]

    # search on files needs a script that it would load from elsewhere
    shutil.copyfile(HERE / SHIM, SITE / "assets" / "javascripts" / SHIM)
    for path in SITE.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        local = relative(f"assets/javascripts/{SHIM}", path.relative_to(SITE).as_posix())
        path.write_text(html.replace(SHIM_ELSEWHERE, local), encoding="utf-8")
    return [*found, *check.problems_of_site(SITE)]


def main() -> int:
    """Write the pages and build the site; returns 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", action="store_true", help="write the pages and stop")
    options = parser.parse_args()
    settings = write_settings(write_pages(PAGES))
    if options.pages:
        return 0

    problems = build(settings)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    print(f"open {SITE.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
