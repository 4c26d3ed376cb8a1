"""report.html without a mouse: every control is reached in the order of the page, is seen and
named, and does what it says."""

from __future__ import annotations

import pytest
from browser import BROWSER, Browser
from report_pages import run  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.html import page

STOPS = """[...document.querySelectorAll("a[href], button, select, input, summary, [tabindex]")]
  .filter((node) => node.checkVisibility({visibilityProperty: true}))"""
HERE = "document.activeElement"
NAMED = """(() => { const n = document.activeElement;
  const labels = [...(n.labels ?? [])].map((l) => l.textContent).join(" ");
  return (n.getAttribute("aria-label") || labels || n.textContent).trim(); })()"""
RING = (
    f"(() => {{ const s = getComputedStyle({HERE}); return s.outlineStyle !== 'none' &&"
    " parseFloat(s.outlineWidth) >= 2; })()"
)
SEEN = f"""(() => {{ const n = {HERE}, b = n.getBoundingClientRect();
  const x = (Math.max(b.left, 0) + Math.min(b.right, innerWidth)) / 2;
  const y = (Math.max(b.top, 0) + Math.min(b.bottom, innerHeight)) / 2;
  const top = document.elementFromPoint(x, y);
  return b.width > 0 && !!top && (n.contains(top) || top.contains(n)); }})()"""


@pytest.fixture
def shown(run, tmp_path):
    if BROWSER is None:
        pytest.skip("no Chromium here")
    store, records = run
    browser = Browser(page.write(store, records), tmp_path / "profile")
    browser.js("new Promise((done) => setTimeout(done, 50))")
    yield browser
    browser.close()


def focus(shown: Browser, query: str) -> None:
    assert shown.js(
        f"(() => {{ const n = document.querySelector({query!r}); n.focus(); return n === {HERE};"
        " })()"
    ), query


def test_tab_reaches_every_control_in_order_and_shows_where_it_is(shown: Browser) -> None:
    many = shown.js(f"window.stops = {STOPS}, window.stops.length")
    assert many > 50
    reached = []
    for _ in range(3 * many):
        shown.press("Tab")
        if shown.js(f"{HERE} === document.body"):
            break
        at = shown.js(f"window.stops.indexOf({HERE})")
        what = shown.js(f"{HERE}.outerHTML.slice(0, 100)")
        assert shown.js(NAMED), f"no name: {what}"
        assert shown.js(RING), f"no ring: {what}"
        assert shown.js(SEEN), f"not in sight: {what}"
        reached += [at] if at >= 0 else []  # Chromium also stops at what scrolls
    assert reached == list(range(many))


def test_the_skip_link_leads_past_the_header(shown: Browser) -> None:
    shown.press("Tab")
    assert shown.js(f"{HERE}.className") == "skip"
    shown.press("Enter")
    shown.press("Tab")
    assert shown.js(f"document.querySelector('main').contains({HERE})")


def test_keys_sort_filter_switch_and_open(shown: Browser) -> None:
    focus(shown, "#rows-table thead th:nth-child(4) button")
    values = (
        "[...document.querySelectorAll('#rows-table tbody tr')].map((r) =>"
        " r.children[3].dataset.value).filter(Boolean).map(Number)"
    )
    for key, descending in (("Enter", False), (" ", True)):
        shown.press(key)
        found = shown.js(values)
        assert found == sorted(found, reverse=descending)
        assert shown.js(f"{HERE}.closest('th').getAttribute('aria-sort')") == (
            "descending" if descending else "ascending"
        )
    focus(shown, "#filter")
    shown.type("skdcag bad_pixel")
    assert shown.js("document.querySelector('#count').textContent") == "1 rows"
    focus(shown, "#heat")
    before = shown.js(f"{HERE}.value")
    shown.press("ArrowDown")
    chosen = shown.js(f"{HERE}.value")
    assert chosen != before
    visible = (
        "[...document.querySelectorAll('[data-heat]')].filter((n) => n.checkVisibility()).map((n)"
        " => n.dataset.heat)"
    )
    assert shown.js(visible) == [chosen]
    focus(shown, "[data-heat]:not([data-hidden]) tbody tr:nth-child(2) a")
    shown.press("Enter")
    shown.js("new Promise((done) => setTimeout(done, 50))")
    assert shown.js(f"{HERE}.id") == "cell", "the focus goes where the link leads"
    first = shown.js("document.querySelector('#panel h3').textContent")
    assert first.startswith("bad_pixel × skdcag")
    shown.press("ArrowDown")
    assert shown.js("document.querySelector('#panel h3').textContent") != first
    focus(shown, "#pictures details:not([open]) summary")
    shown.press("Enter")
    assert shown.js(f"{HERE}.parentNode.open")
    focus(shown, "#theme")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = shown.js(ground)
    shown.press(" ")
    assert shown.js(ground) != before


def test_what_is_wide_scrolls_by_keys(shown: Browser) -> None:
    shown.js("document.querySelector('#rows .scroll').style.maxWidth = '300px'")
    focus(shown, "#rows .scroll")
    for _ in range(3):
        shown.press("ArrowRight")
    shown.js("new Promise((done) => setTimeout(done, 600))")
    assert shown.js("document.querySelector('#rows .scroll').scrollLeft") > 0
