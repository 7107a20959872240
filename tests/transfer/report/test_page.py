"""The page of a comparison: what a reader sees first, scales, folded numbers, keyboard and screen reader."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.transfer.report.browser import Browser
from tests.transfer.report.report_files import Page, read_csv, report_on
from tests.transfer.run_store import INITS, make_record, write_run, write_store
from transfer import show
from transfer.report.charts import Bars, Dot, DotIntervals, Lines
from transfer.report.config_section import curve_bands
from transfer.report.escaping import minus_signs
from transfer.report.files import sections, write_report

# axe-core is not a dependency: unpack its npm package anywhere and name the script
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("page")
    write_store(folder / "runs", 2, INITS, 3, classes=3)
    report = report_on(folder / "runs", limits="Toy runs.", plan="name: toy\nseed: -1\n")
    return write_report(folder / "out", report)


def test_every_metric_has_a_panel_with_its_own_scale() -> None:
    dots = [Dot("box AP", "moco", 0.4, 0.1, 0.7, "ahead"), Dot("box AP50", "moco", -30.0, -38.0, -22.0, "behind")]
    shapes = [shape.source for shape in DotIntervals(dots, "points").draw().shapes]
    second = next(i for i, shape in enumerate(shapes) if ">box AP50<" in shape)
    assert any(">0.6<" in shape for shape in shapes[:second])
    assert not any(">−40<" in shape for shape in shapes[:second])
    assert any(">−40<" in shape for shape in shapes[second:])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-0.55 to -0.10", "−0.55 to −0.10"),
        ("[-1.42, +11.33]", "[−1.42, +11.33]"),
        ("(-9.01 over 2 seeds)", "(−9.01 over 2 seeds)"),
        ("moco-2 on 2026-01-02, 1e-3", "moco-2 on 2026-01-02, 1e-3"),
    ],
)
def test_minus_signs_leave_names_and_dates_alone(text: str, shown: str) -> None:
    assert minus_signs(text) == shown


def test_the_page_has_minus_signs_and_the_csv_hyphens(files: dict[str, Path]) -> None:
    page = Page(files["gap.html"].read_text())
    assert any(shown.startswith("−") for _, shown in page.csv_cells)
    assert not any("-" in shown for _, shown in page.csv_cells)
    assert any(row["vs_supervised"].startswith("-") for row in read_csv(files["gap.csv"]))
    assert "−" not in files["gap.csv"].read_text()
    assert "seed: -1\n" in files["gap.html"].read_text()  # a plan is quoted as it is


def test_names_for_screen_readers_are_unique(files: dict[str, Path]) -> None:
    text = files["gap.html"].read_text()
    regions = Counter(attrs["aria-label"] for _, attrs in Page(text).tags if "aria-label" in attrs)
    folded = Counter(re.findall(r"<summary>(.*?)</summary>", text))
    assert regions.total() > 15
    assert folded.total() > 5
    assert {name: n for names in (regions, folded) for name, n in names.items() if n > 1} == {}


def test_the_keyboard_reaches_whatever_scrolls(files: dict[str, Path]) -> None:
    tags = Page(files["gap.html"].read_text()).tags
    scroll = [attrs for tag, attrs in tags if tag == "pre" or attrs.get("class") == "scroll"]
    assert len(scroll) > 5
    assert all(attrs["tabindex"] == "0" and attrs["role"] == "region" and attrs["aria-label"] for attrs in scroll)


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
SHOWN = "document.querySelector('.numbers table').checkVisibility({contentVisibilityAuto: true})"
PLACES = "['.charted figure', '.numbers'].map(s => document.querySelector(s).getBoundingClientRect())"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@needs_chromium
def test_numbers_are_folded_under_their_chart_or_beside_it(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["gap.html"], 820, "light")
    assert browser.evaluate(SHOWN) is False
    assert browser.evaluate(f"(([chart, table]) => chart.bottom <= table.top)({PLACES})")
    browser.open(files["gap.html"], 1100, "light")
    assert browser.evaluate(SHOWN) is True
    assert browser.evaluate(f"(([chart, table]) => chart.right <= table.left && table.height > 50)({PLACES})")


@pytest.fixture(scope="module")
def pages(files: dict[str, Path]) -> list[Path]:
    """The page of a comparison, and that of a run's pictures."""
    index = files["gap.html"].with_name("index.html")
    index.write_text(show.page("toy, moco", ["00000.png", "00001.png"]))
    for name in ("00000.png", "00001.png"):
        Image.new("RGB", (900, 60)).save(index.with_name(name))
    return [files["gap.html"], index]


@needs_chromium
@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: AXE_CORE=.../axe.min.js, or node_modules/axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_axe_finds_nothing(browser: Browser, pages: list[Path], width: int, scheme: str) -> None:
    for page in pages:
        browser.open(page, width, scheme)
        browser.evaluate(OPEN_ALL)
        browser.evaluate(AXE.read_text() + ";0")
        script = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.length])))"
        answer = browser.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert answer["result"]["value"] == "[]", page.name
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_curves_have_a_band_from_the_lowest_to_the_highest_run(store: Callable[..., Path]) -> None:
    for seed, early in ((0, 10.0), (1, 14.0), (2, 11.0)):
        history = [{"iteration": 50, "metrics": {"bbox": {"AP": early}}}]
        store(init="supervised", seed=seed, history=history, metrics={"bbox": {"AP": 30.0 - seed}})
    root = store(init="moco", history=[{"iteration": 50, "metrics": {"bbox": {"AP": 9.0}}}])
    (config,) = report_on(root).comparison.configs
    assert curve_bands(config) == {"supervised": [(50.0, 10.0, 14.0), (100.0, 28.0, 30.0)]}  # one run has no band
    curves = config.curves.by_init
    chart = Lines(curves, dict.fromkeys(curves, 0), "iteration", {"supervised": [(50.0, -100.0, 100.0)]})
    shapes = "".join(shape.source for shape in chart.draw().shapes)
    assert 'class="band c0"' in shapes
    assert ">−100<" in shapes  # the scale holds the band


def test_repeated_pretraining_shows_where_the_variance_comes_from(tmp_path: Path) -> None:
    for run, centre in enumerate((33.0, 33.5, 33.2)):
        for seed in (0, 1):
            record = make_record(init="moco", seed=seed, metrics={"bbox": {"AP": centre + 0.1 * seed * run}})
            write_run(tmp_path / "runs", record, f"pretrain{run}")
    for seed in (0, 1):
        write_run(tmp_path / "runs", make_record(init="supervised", seed=seed, metrics={"bbox": {"AP": 30.0 + seed}}))
    report = report_on(tmp_path / "runs")
    figures = [figure for section in sections(report) for figure in section.figures]
    (chart,) = [figure.data for figure in figures if figure.name == "Variance of a run by its source"]
    assert isinstance(chart, Bars)
    parts = next(one.components for one in report.comparison.configs[0].spreads if one.init == "moco")
    expected = [one.value for one in (parts.pretraining, parts.seed, parts.residual) if one]
    assert chart.groups == {"moco": dict(zip(("pretraining run", "fine-tuning seed", "rest"), expected))}


def test_without_repeated_pretraining_there_is_no_picture_of_its_variance(files: dict[str, Path]) -> None:
    assert "Variance of a run by its source" not in files["gap.html"].read_text()
