"""What a reader of the site can do, where there is a Chromium; and axe, where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import BROWSER, Browser
from report_pages import run  # noqa: F401 - a fixture
from test_site import board, make_site, pages

from t2i_backdoor_bench.report.html import page

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
WIDTHS = (1440, 1024, 390)
SHOWN_ROWS = """[...document.querySelectorAll("#board tbody tr")].filter((r) => !r.hidden)
  .map((r) => r.children[0].dataset.value)"""
VIOLATIONS = """axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(
  found.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 120)])))"""


def axe() -> Path | None:
    """axe.min.js of the npm package axe-core: in $AXE_CORE, or installed for all users."""
    roots = [os.environ.get("AXE_CORE", "")]
    if shutil.which("npm"):
        done = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=False)
        roots.append(f"{done.stdout.strip()}/axe-core")
    found = [Path(root) / "axe.min.js" for root in roots if root]
    return next((path for path in found if path.is_file()), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="module")
def browser(site: Path, tmp_path_factory: pytest.TempPathFactory):
    found = Browser(site / "index.html", tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def go(browser: Browser, path: Path, state: str = "", width: int = 1440) -> None:
    browser.ask(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.ask("Page.navigate", url="about:blank")
    browser.wait_for("Page.loadEventFired")
    browser.ask("Page.navigate", url=path.as_uri() + state)
    browser.wait_for("Page.loadEventFired")
    browser.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def kinds(site: Path) -> list[Path]:
    """One page of each kind."""
    found = {p.relative_to(site).parts[0] if p.parent != site else p.name: p for p in pages(site)}
    return list(found.values())


def test_no_page_is_wider_than_the_window_and_wide_tables_say_so(site, browser) -> None:
    for path in kinds(site):
        for width in WIDTHS:
            go(browser, path, width=width)
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert browser.js(wide) <= 0, (path, width)
            silent = """[...document.querySelectorAll(".scroll")].filter((b) => b.checkVisibility()
              && b.scrollWidth > b.clientWidth + 2 && !b.classList.contains("more")).length"""
            assert browser.js(silent) == 0, (path, width)


def test_pictures_are_loaded(site, browser) -> None:
    go(browser, site / "cells/ours/bad_pixel--skdcag.html")
    widths = browser.js("[...document.images].map((image) => image.naturalWidth)")
    assert widths
    assert min(widths) > 0


def test_a_link_leads_to_what_was_seen(site, browser) -> None:
    go(browser, board(site))
    everything = browser.js(SHOWN_ROWS)
    browser.js("document.querySelector('#filter').focus()")
    browser.type("their_defense")
    assert browser.js(SHOWN_ROWS) == ["their_defense"]
    assert browser.js("document.querySelector('#count').textContent") == "1 rows"
    browser.js("document.querySelector('[data-column=\"1\"]').click()")
    state = browser.js("location.hash")
    go(browser, board(site), state)
    assert browser.js(SHOWN_ROWS) == ["their_defense"]
    assert browser.js("document.querySelector('#filter').value") == "their_defense"
    assert browser.js("document.querySelector('#board thead th:nth-child(2)').hidden")
    go(browser, board(site), "#sort=0&down=1")
    assert browser.js(SHOWN_ROWS) == sorted(everything, reverse=True)


def test_the_keyboard_sorts_and_the_address_says_so(site, browser) -> None:
    go(browser, board(site))
    browser.js("document.querySelector('#board thead th button').focus()")
    browser.press("Enter")
    assert browser.js("location.hash") == "#sort=0"
    assert browser.js(SHOWN_ROWS) == sorted(browser.js(SHOWN_ROWS))


def test_two_runs_are_compared_on_the_cells_that_both_have(site, browser) -> None:
    go(browser, site / "compare.html", "#a=ours&b=theirs&metric=restoration_accuracy")
    rows = """[...document.querySelectorAll("#compared tbody tr")].map((r) =>
      [...r.children].map((c) => c.textContent))"""
    (row,) = browser.js(rows)
    assert row[:2] == ["bad_pixel", "none"]
    assert row[4] == "0.0"
    assert browser.js("document.querySelector('#said').textContent").startswith("1 cells in both")


@pytest.mark.skipif(axe() is None, reason="axe-core is not here: npm install -g axe-core")
def test_axe_finds_nothing(site, browser, run, tmp_path) -> None:
    script = axe().read_text(encoding="utf-8")
    report = page.write(*run)
    for path in [*kinds(site), report]:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.ask("Emulation.setEmulatedMedia", features=[feature])
                go(browser, path, width=width)
                browser.js(f"{script};0")
                assert json.loads(browser.js(VIOLATIONS)) == [], (path, width, scheme)
