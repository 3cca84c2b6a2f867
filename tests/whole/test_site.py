"""The documentation site: every page has its place, every setting and module its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.site import api, build, check, configuration
from tests.support import ROOT


@pytest.fixture(scope="module")
def site_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the site as Markdown; a page without a place or with a dead link is an error."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    navigation = build.write_pages(folder)
    assert navigation[0] == {"Start here": "index.md"}
    return folder


def names_in(value: Any, prefix: str) -> list[str]:
    """The full names of all values of a file of conf/, without Hydra's own words."""
    if not isinstance(value, dict) or not value:
        return [prefix.removesuffix(".")]
    found = []
    for key, inner in value.items():
        full_name = f"{prefix}{key}."
        is_hydras = full_name.startswith(configuration.HYDRAS_OWN)
        if key not in ("defaults", *configuration.NOT_SETTINGS) and not is_hydras:
            found += names_in(inner, full_name)
    return found


def test_every_setting_is_in_the_reference(site_pages: Path) -> None:
    """Read by another way: the files as data, not as lines."""
    count = 0
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        group = path.parent.relative_to(ROOT / "conf").as_posix().removesuffix("/base")
        name = f"{path.stem}.md" if group == "." else configuration.file_name(group)
        page = (site_pages / "configuration" / name).read_text(encoding="utf-8")
        text = path.read_text(encoding="utf-8")
        prefix = (
            "" if group == "." or "@package _global_" in text else group.replace("/", ".") + "."
        )
        for setting in names_in(yaml.safe_load(text) or {}, ""):
            assert f"| `{prefix}{setting}` |" in page, f"{path}: {setting}"
            count += 1
    assert count > 500


def test_every_comment_is_in_the_reference(site_pages: Path) -> None:
    count = 0
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        group = path.parent.relative_to(ROOT / "conf").as_posix().removesuffix("/base")
        name = f"{path.stem}.md" if group == "." else configuration.file_name(group)
        page = (site_pages / "configuration" / name).read_text(encoding="utf-8")
        words_of_page = page.replace("\\", "")
        for line in path.read_text(encoding="utf-8").splitlines():
            found = re.search(r"(?:^|\s)#\s?(.*)$", line)
            if found and not found[1].startswith("@package") and "- _self_" not in line:
                assert found[1].strip().replace("\\", "") in words_of_page, f"{path}: {line}"
                count += 1
    assert count > 400


def test_a_setting_is_told_as_its_file_has_it(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "NAME.yaml"
    file.parent.mkdir()
    file.write_text(
        "# What it is.\n# g2rl-train model=NAME\ndefaults:\n  - base/hf@_here_\n"
        "  - /encoder@_global_.encoder: ngram  # beside it\n_target_: some.Class\n"
        'mark: "####"   # behind # it\nlora:           # adapters\n  r: [1, 2]\n  # alone\n  s: |\n'
        "    long\n    text\n",
        encoding="utf-8",
    )
    found = configuration.read_config_file(file)
    assert found.about == ["What it is.", "g2rl-train model=NAME"]
    assert [configuration.choice_line(base) for base in found.bases] == [
        "- takes over `base/hf`",
        "- chooses `encoder=ngram`: beside it",
    ]
    assert [target.default for target in found.targets] == ["some.Class"]
    rows = [(one.name, one.default, one.comment) for one in found.settings]
    assert rows == [
        ("mark", '"####"', "behind # it"),
        ("lora.*", "", "adapters"),
        ("lora.r", "[1, 2]", ""),
        ("", "", "alone"),
        ("lora.s", "(a text of several lines)", ""),
    ]


def test_every_module_is_in_the_api_reference_once(site_pages: Path) -> None:
    shown = []
    for page in (site_pages / "api").glob("*.md"):
        shown += re.findall(r"(?m)^::: (.*)$", page.read_text(encoding="utf-8"))
    modules = []
    for path in (ROOT / "g2rl").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.name != "__init__.py" and parts[1] not in api.NOT_SHOWN:
            modules.append(".".join(parts))
    assert sorted(shown) == sorted(modules)


def test_links_lead_from_the_place_on_the_site(site_pages: Path) -> None:
    known = build.pages()

    def relinked(line: str, path: str) -> str:
        return build.relink(line, path, known, site_pages)

    study = "experiments/paper/README.md"
    assert relinked("[a](../../docs/memory.md#b)", study) == "[a](../memory.md#b)"
    assert relinked("[a](../README.md)", "docs/tour.md") == "[a](index.md)"
    assert relinked("[g2rl/types.py](../g2rl/types.py)", "docs/tour.md") == "g2rl/types.py"
    assert relinked("[a](https://arxiv.org)", study) == "[a](https://arxiv.org)"
    assert relinked("![a](figures/tour.png)", "docs/tour.md") == "![a](files/docs/figures/tour.png)"
    assert (site_pages / "files" / "docs" / "figures" / "tour.png").is_file()
    with pytest.raises(ValueError, match=r"docs/tour\.md links to nowhere\.md"):
        relinked("[a](nowhere.md)", "docs/tour.md")


def test_a_page_without_a_place_is_named(site_pages: Path) -> None:
    known = {**build.pages(), "docs/new.md": "new.md"}
    made: dict[str, list[tuple[str, str]]] = {"experiments": [], "configuration": [], "api": []}
    with pytest.raises(ValueError, match=r"docs/new\.md has no place in docs/site/nav\.yml"):
        build.navigation(known, made)
    del known["docs/new.md"], known["docs/tour.md"]
    with pytest.raises(ValueError, match=r"names docs/tour\.md, which does not exist"):
        build.navigation(known, made)


def test_what_the_check_of_the_finished_site_finds(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<script src="https://elsewhere/x.js"></script><h2 id="there">x</h2>'
        '<a href="https://fine">x</a> <a href="b.html#place">x</a> <a href="#there">x</a>'
        '<a href="b.html#gone">x</a> <a href="c.html">x</a><p>Text:\n- no list</p>'
        "<p>- 1 is minus</p>",
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<p id="place">| a | b |</p>', encoding="utf-8")
    assert check.problems_of_site(tmp_path) == [
        "a.html loads https://elsewhere/x.js",
        "a.html leads to b.html#gone, which does not exist",
        "a.html leads to c.html, which does not exist",
        "a.html shows Markdown as text: 'Text:\\n- no list'",
        "a.html shows Markdown as text: '- 1 is minus'",
        "b.html shows Markdown as text: '| a | b |'",
    ]
