"""The page of published rows: complete, like for like, offline, and usable by keyboard in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.transfer.report.browser import Browser
from transfer.literature.noise import noise_of_difference, spread_of
from transfer.literature.rows import load, select
from transfer.literature.setups import detector_parts, protocol_family
from transfer.report.atlas import atlas
from transfer.report.atlas_table import gap_of, short_dataset

REPOSITORY = Path(__file__).resolve().parents[3]
COMMITTED = REPOSITORY / "docs" / "atlas.html"
VISIBLE = "Array.from(document.querySelectorAll('#results tbody tr')).filter(r => !r.hidden)"
# axe-core is not a dependency: unpack its npm package anywhere and name the script
AXE = next(
    (p for p in (Path(os.environ.get("AXE_CORE", "")), REPOSITORY / "node_modules/axe-core/axe.min.js") if p.is_file()),
    None,
)


def the_row(**words: str) -> dict[str, Any]:
    return select(load(), **words)[0]


def test_committed_page_is_the_current_one() -> None:
    assert COMMITTED.read_text() == atlas(load()), "run: python transfer/published.py --html docs/atlas.html"
    assert COMMITTED.stat().st_size < 1_000_000


class _Rows(HTMLParser):
    """The cells of the table of results, as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(page[page.index('id="results"') : page.index("</table>")])

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_every_value_is_on_the_page_with_its_source() -> None:
    rows = _Rows(atlas(load())).rows[1:]
    assert len(rows) == len(load())
    for cells, row in zip(rows, load(), strict=True):
        assert cells[-1] == row["source"]
        values = " ".join([cells[3], cells[5], cells[10]]).replace(",", " ").split()
        assert {str(value) for value in row["metrics"].values()} <= set(values)


def test_page_makes_no_request_and_runs_no_other_script() -> None:
    page = atlas(load())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-")
    assert not re.search(r'(src|href)="(?!#|data:|https://(arxiv\.org|github\.com)/)', page)
    assert not re.search(r"<(img|iframe|object|link(?! rel=.icon))", page)
    assert page.count("<script") == 2


def test_text_of_a_row_cannot_become_markup() -> None:
    row = {**the_row(paper="SynCo"), "notes": "</script><script>alert(1)</script>", "source": "<b>x</b>"}
    page = atlas([row])
    assert "<script>alert" not in page
    assert "<b>x" not in page


def test_gaps_on_the_page() -> None:
    moco = gap_of(the_row(paper="MoCo v1", source="Table 2b", init="MoCo v1"), ("AP",))
    assert moco is not None
    assert (moco.text, moco.reference.note, moco.state) == ("+2.4", "", "ahead")
    assert moco.noise is not None
    assert moco.noise.half_width == pytest.approx(1.96 * (0.2**2 / 5 * 2) ** 0.5)  # five trials each
    assert moco.noise.typical
    other = gap_of(the_row(paper="SynCo", task="voc07+12"), ("AP",))
    assert other is not None
    assert other.reference.note == "MoCo v1"
    within = gap_of(the_row(paper="MoBY", init="MoBY", detector="Mask R-CNN Swin-T", schedule="1x"), ("APbb",))
    assert within is not None
    assert (within.text, within.state) == ("-0.1", "within-noise")
    assert gap_of(the_row(init="supervised"), ("AP", "APbb", "top1")) is None


def test_noise_is_the_sources_own_where_it_gives_one() -> None:
    own = the_row(paper="CW-RGP", task="voc07+12")
    assert spread_of(own, "AP") is not None
    assert spread_of(own, "AP").typical is False  # type: ignore[union-attr]
    trials = the_row(paper="CoinCheung", task="coco", init="MoCo v2")  # 38.91, 38.15, 38.73, 38.98
    assert spread_of(trials, "APbb").sd == pytest.approx(0.375, abs=1e-3)  # type: ignore[union-attr]
    assert spread_of(the_row(task="cityscapes"), "APmk") is None
    assert noise_of_difference(the_row(task="cityscapes"), own, "APmk") is None


def test_short_names_stay_distinct() -> None:
    names = {row["dataset"] for row in load()}
    assert len({short_dataset(name) for name in names}) >= len(names) - 1  # Cityscapes with and without its split


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def press(browser: Browser, key: str, code: int, text: str = "") -> None:
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


def focus(browser: Browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")


@needs_chromium
def test_filters(browser: Browser) -> None:
    browser.open(COMMITTED, 1400, "light")
    assert browser.evaluate("document.getElementById('count').textContent") == f"{len(load())} of {len(load())} results"
    focus(browser, "input[type=search]")
    browser.call("Input.insertText", text="moco table 2b")
    assert browser.evaluate(f"{VISIBLE}.length") == len(select(load(), paper="MoCo v1", source="Table 2b"))
    press(browser, "Tab", 9)
    assert browser.evaluate("document.activeElement.name") == "data"
    browser.evaluate("document.querySelector('button[type=reset]').click()")
    choose = "((n, v) => { const s = document.forms[0].elements[n]; s.value = v; s.dispatchEvent(input); })"
    browser.evaluate("input = new Event('input', {bubbles: true}); 0")
    for name, value in (("data", "LVIS v1"), ("backbone", "ViT-B")):
        browser.evaluate(f"{choose}('{name}', '{value}')")
    wanted = [r for r in load() if r["dataset"].startswith("LVIS v1 (train") and "ViT-B" in r["detector"]]
    assert browser.evaluate(f"{VISIBLE}.length") == len(wanted) > 3
    assert browser.evaluate("document.getElementById('count').textContent").startswith(f"{len(wanted)} of")


@needs_chromium
@pytest.mark.parametrize("name", ["data", "family", "backbone", "protocol", "year"])
def test_every_list_filters_by_what_it_names(browser: Browser, name: str) -> None:
    """Each value of a list shows its own rows; together they show all."""
    browser.open(COMMITTED, 1400, "light")
    choose = (
        f"(() => {{ const list = document.forms[0].elements['{name}'];"
        "return Array.from(list.options).slice(1).map(o => { list.value = o.value;"
        "list.dispatchEvent(new Event('input', {bubbles: true}));"
        f"return [o.value, {VISIBLE}.map(r => r.id)]; }}) }})()"
    )
    shown = {value: [int(row[1:]) for row in rows] for value, rows in browser.evaluate(choose)}
    own = {
        "data": lambda row: short_dataset(row["dataset"]),
        "family": lambda row: detector_parts(row["detector"]).architecture or "Classifier",
        "backbone": lambda row: detector_parts(row["detector"]).backbone or "other",
        "protocol": protocol_family,
        "year": lambda row: str(row["year"]),
    }[name]
    wanted: dict[str, list[int]] = {}
    for number, row in enumerate(load()):
        wanted.setdefault(own(row), []).append(number)
    assert shown == wanted
    assert len(wanted) > 5


@needs_chromium
def test_source_and_headings_are_in_view(browser: Browser) -> None:
    """At 1400 px without scrolling sideways; the headings stay where the table is scrolled."""
    browser.open(COMMITTED, 1400, "light")
    right = "document.querySelector('#results thead th:last-child').getBoundingClientRect().right"
    assert browser.evaluate(f"{right} <= innerWidth")
    browser.evaluate("document.querySelector('#r300').scrollIntoView()")
    heading, row, region = (
        browser.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().{side}")
        for selector, side in (("#results thead th", "top"), ("#r300", "top"), (".results", "top"))
    )
    assert abs(heading - region) < 3
    assert row > heading


@needs_chromium
def test_sorting_by_keyboard(browser: Browser) -> None:
    browser.open(COMMITTED, 1400, "light")
    focus(browser, "#results th:nth-child(4) button")  # box AP
    for order in ("descending", "ascending"):
        press(browser, "Enter", 13, "\r")
        assert browser.evaluate("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == order
        values = browser.evaluate(f"{VISIBLE}.map(r => r.cells[3].textContent)")
        numbers = [float(v) for v in values if v]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert all(v == "" for v in values[len(numbers) :])  # rows without a value come last


@needs_chromium
def test_two_rows_are_compared_by_keyboard(browser: Browser) -> None:
    browser.open(COMMITTED, 1400, "light")
    focus(browser, "#compare-mode")
    press(browser, "Enter", 13, "\r")
    rows = list(load())
    one = rows.index(the_row(paper="MoCo v1", source="Table 5a", init="supervised"))
    other = rows.index(the_row(paper="MoCo v1", source="Table 5b", init="supervised"))
    for number in (one, other):
        focus(browser, f"#r{number} input")
        press(browser, " ", 32, " ")
    text = browser.evaluate("document.getElementById('comparison').textContent")
    assert "schedule: 1x (A), 2x (B). Elsewhere worth +2.00 AP from A to B" in text
    assert browser.evaluate("document.querySelectorAll('#comparison li').length") == 1


@needs_chromium
def test_without_script_it_is_a_plain_table(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "plain.html"
    page.write_text(re.sub(r"script-src 'sha256-[^']*'", "script-src 'none'", COMMITTED.read_text()))
    browser.open(page, 820, "light")
    assert browser.evaluate(f"{VISIBLE}.length") == len(load())
    assert browser.evaluate("document.querySelectorAll('#results button').length") == 0
    assert browser.evaluate("getComputedStyle(document.getElementById('filters')).display") == "none"


@needs_chromium
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_layout_and_accessibility(browser: Browser, width: int) -> None:
    before = len(browser.events)
    for scheme in ("light", "dark"):
        browser.open(COMMITTED, width, scheme)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    asked = {
        event["params"]["request"]["url"]
        for event in browser.events[before:]
        if event.get("method") == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} == {COMMITTED.as_uri()}
    assert not [e for e in browser.events[before:] if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]


@needs_chromium
@pytest.mark.skipif(AXE is None, reason="needs axe-core: AXE_CORE=.../axe.min.js, or node_modules/axe-core")
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_axe_finds_nothing(browser: Browser, width: int) -> None:
    assert AXE is not None
    for scheme in ("light", "dark"):
        browser.open(COMMITTED, width, scheme)
        browser.evaluate("document.getElementById('compare-mode').click()")
        browser.evaluate(AXE.read_text() + ";0")
        script = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.length])))"
        answer = browser.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert answer["result"]["value"] == "[]"


@needs_chromium
def test_prints(browser: Browser) -> None:
    browser.open(COMMITTED, 1400, "dark")
    assert browser.pdf().startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.getElementById('filters')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # the whole table, with headings that Chromium repeats on every page, which it does not do for a button
    assert browser.evaluate("getComputedStyle(document.querySelector('.results')).maxHeight") == "none"
    last = "document.querySelector('#results thead th:last-child')"
    assert browser.evaluate(f"getComputedStyle({last}, '::before').content") == '"Source"'
    assert browser.evaluate(f"getComputedStyle({last}.firstChild).display") == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('#results .soft')).fontSize") == (
        browser.evaluate("getComputedStyle(document.querySelector('#results td.gap')).fontSize")
    )
    browser.call("Emulation.setEmulatedMedia", media="")
