"""What a reader sees and does: the explorer, keys, both colour schemes, a phone, paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.report_browser.conftest import GROUP, PROMPTS, STEPS, cosines
from tests.report_pages import HOSTILE

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


def of_playwright() -> Any:
    """playwright, which `make test` does not have: it reads this file and runs nothing of it."""
    from playwright import sync_api

    return sync_api


@pytest.fixture
def complaints() -> list[str]:
    """What pages complain of: errors, dialogs, and requests to anywhere."""
    return []


@pytest.fixture
def open_page(browser: Any, complaints: list[str]) -> Iterator[Open]:
    """Opens a file; afterwards asks that nothing went wrong in it and nothing left it."""
    contexts: list[Any] = []

    def opened(path: Path, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: visited(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#explorer:not([hidden])")
        return page

    def visited(url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            complaints.append(f"asks for {url}")

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def test_a_group_shows_every_response_with_its_numbers(open_page: Open, finished_run: Path) -> None:
    """The last step is shown first; read beside with pandas."""
    page = open_page(finished_run / "report.html")
    rollouts = pd.read_parquet(finished_run / "rollouts" / "step_000003.parquet")
    geometry = pd.read_parquet(finished_run / "geometry" / "step_000003.parquet")
    cards = page.locator("#cards li")
    assert cards.count() == 4
    for place in range(4):
        text = cards.nth(place).inner_text()
        assert rollouts["completion"][place] in text
        assert f"{geometry['nu'][place]:.3f}" in text
        assert ("✓ right" if rollouts["correct"][place] else "✗ wrong") in text
    assert rollouts["prompt"][0] in page.inner_text("#prompt")


def test_the_matrix_is_that_of_the_group(open_page: Open, large_page: Path) -> None:
    page = open_page(large_page)
    page.select_option("#group", "5")
    rows = page.locator("#matrix tbody tr")
    shown = [row.split("\t")[1:] for row in rows.all_inner_texts()]
    matrix = cosines(STEPS)[5 * GROUP : 6 * GROUP]
    for one in range(GROUP):
        for other in range(GROUP):
            if one != other:
                assert abs(float(shown[one][other]) - matrix[one, other]) <= 0.0051


def test_the_keyboard_reaches_everything(open_page: Open, large_page: Path) -> None:
    page = open_page(large_page)
    page.keyboard.press("j")
    assert f"prompt {STEPS}.1" in page.inner_text("#prompt")
    page.keyboard.press("[")
    assert f"prompt {STEPS - 1}.1" in page.inner_text("#prompt")
    page.keyboard.press("]")
    page.keyboard.press("k")
    assert f"prompt {STEPS}.0" in page.inner_text("#prompt")

    # cells of the matrix: one stop of the tabulator, then arrows
    page.locator("#matrix tbody td[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "#1 and #2: " in page.inner_text("#matrix p")
    assert page.locator("#cards li.lit").count() == 2

    # what is typed into a field is no command
    page.locator("#query").focus()
    page.keyboard.type("j")
    assert page.input_value("#query") == "j"


def test_responses_are_put_in_order_and_narrowed_down(open_page: Open, large_page: Path) -> None:
    page = open_page(large_page)
    names = page.locator("#cards h4")
    page.select_option("#order", "nu")
    place = np.arange(GROUP)
    by_nu = np.argsort((place * 37) % (PROMPTS * GROUP), kind="stable")
    assert [text.split()[0] for text in names.all_inner_texts()] == [f"#{one}" for one in by_nu]
    page.check("#descending")
    assert names.first.inner_text().startswith(f"#{by_nu[-1]}")
    page.select_option("#verdict", "right")
    assert page.locator("#cards li").count() == 6
    assert page.locator("#cards li.wrong").count() == 0


def test_a_table_of_12800_responses_is_paged_sorted_and_searched(
    open_page: Open, large_page: Path
) -> None:
    expect = of_playwright().expect
    page = open_page(large_page)
    page.select_option("#view", "list")
    assert "12,800 responses" in page.inner_text("#found")
    rows = page.locator("#list-body tr")
    assert rows.count() == 50
    page.click("#page-on")
    assert page.inner_text("#page") == "page 2 of 256"
    page.click("#list-head button:text-is('tokens')")
    page.click("#list-head button:text-is('tokens')")
    assert "256" in rows.first.inner_text().split("\t")
    assert page.locator("#list-head [aria-sort]").get_attribute("aria-sort") == "descending"

    # a row leads to its group
    page.fill("#query", "response 17.33 ")
    expect(page.locator("#found")).to_have_text("1 response.")
    assert page.inner_text("#list-body mark") == "response 17.33 "
    rows.first.click()
    assert page.input_value("#view") == "groups"
    assert "prompt 17.2" in page.inner_text("#prompt")


def test_tables_of_metrics_sort_and_are_searched(open_page: Open, finished_run: Path) -> None:
    page = open_page(finished_run / "report.html")
    page.locator("summary:has-text('metrics')").click()
    table = page.locator("table.metrics")
    page.fill(".find-rows", "countdown/pass@1")
    shown = [row for row in table.locator("tbody tr").all() if row.is_visible()]
    assert len(shown) == 3, "the value and both ends of its interval"
    page.fill(".find-rows", "")
    table.locator("thead button:text-is('largest')").click()
    values = [float(cell) for cell in table.locator("tbody td:last-child").all_inner_texts()]
    assert values == sorted(values)


def test_a_link_leads_to_its_group(open_page: Open, large_page: Path) -> None:
    expect = of_playwright().expect
    page = open_page(large_page)
    page.goto(f"{large_page.as_uri()}#at=0,10,3")
    expect(page.locator("#prompt")).to_contain_text("prompt 11.3")


def test_nothing_that_a_model_wrote_runs_or_hides(open_page: Open, hostile_page: Path) -> None:
    expect = of_playwright().expect
    page = open_page(hostile_page)
    assert page.evaluate("window.pwned") is None
    cards = page.locator("#cards li")
    assert HOSTILE[0] in cards.first.inner_text()
    assert HOSTILE[1] in page.inner_text("#prompt")
    assert HOSTILE[2] in cards.first.inner_text()
    assert "␀␛[31mred␇ ⟨U+202E⟩gnp.exe" in cards.nth(1).inner_text()
    assert "(empty)" in cards.nth(3).inner_text()
    page.select_option("#view", "list")
    page.fill("#query", "<script>")
    expect(page.locator("#found")).to_have_text("1 response.")
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main iframe, main script").count() == 0


def test_an_injected_script_would_not_run(
    open_page: Open, finished_run: Path, complaints: list[str]
) -> None:
    """The page's own policy stops what its escaping might miss."""
    page = open_page(finished_run / "report.html")
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener(
                "securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.pwned = 5";
            document.body.append(script);
        })"""
    )
    assert blocked == "script-src-elem"
    assert page.evaluate("window.pwned") is None
    assert "Content Security Policy" in complaints.pop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(
    open_page: Open, finished_run: Path, scheme: str
) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), drawings included."""
    page = open_page(finished_run / "report.html", color_scheme=scheme)
    for selector in ("body", ".note", "nav a", ".verdict-wrong", "#matrix th", "figure svg text"):
        colours = page.evaluate(
            """(selector) => {
                const found = document.querySelector(selector);
                const style = getComputedStyle(found);
                const colour = found.closest("svg") ? style.fill : style.color;
                return [colour, getComputedStyle(document.body).backgroundColor];
            }""",
            selector,
        )
        assert contrast(*colours) >= 4.5, (selector, colours)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours as a browser writes them, `rgb(1, 2, 3)`."""
    levels = []
    for colour in (one, other):
        parts = [float(part) / 255 for part in colour[4:-1].split(",")]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_needs_no_scrolling_sideways(
    open_page: Open, finished_run: Path, large_page: Path, pair_page: Path, width: int
) -> None:
    for path in (finished_run / "report.html", large_page, pair_page):
        page = open_page(path, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_shows_results_without_controls(open_page: Open, finished_run: Path) -> None:
    page = open_page(finished_run / "report.html")
    page.emulate_media(media="print")
    assert not page.is_visible("nav")
    assert not page.is_visible("#query")
    assert page.is_visible("#results table")
    assert page.is_visible("#cards li")
    assert len(page.pdf()) > 10_000


def test_several_runs_have_one_explorer(open_page: Open, pair_page: Path) -> None:
    page = open_page(pair_page)
    assert page.locator("#run option").count() == 2
    page.select_option("#run", "1")
    assert page.locator("#cards li").count() == 4
    assert page.is_visible("#compared")
