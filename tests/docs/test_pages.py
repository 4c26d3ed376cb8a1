"""The tables of the pages are those of the committed results."""

from __future__ import annotations

from pathlib import Path

import page_results
import pytest
from helpers import load_script
from published_tables import verdict

from t2i_backdoor_bench.report.numbers import DASH

ROOT = Path(__file__).parents[2]
pages = load_script(ROOT / "benchmarks" / "pages.py")


def row(low: float, value: float, high: float) -> dict[str, float]:
    return {"removal_accuracy": value, "removal_accuracy_lo": low, "removal_accuracy_hi": high}


@pytest.fixture(scope="module")
def results():
    return page_results.Results(ROOT / "results")


@pytest.mark.parametrize("name", pages.PAGES)
def test_pages_are_up_to_date(name: str, results) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert pages.MARK.search(text) or pages.VALUE.search(text)
    assert text == pages.page(text, results), "run python benchmarks/pages.py"


def test_every_table_is_on_a_page(results) -> None:
    found = [
        m[1]
        for name in pages.PAGES
        for m in pages.MARK.findall((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(pages.TABLES)
    with pytest.raises(KeyError):
        pages.page("<!-- table: nothing -->\n<!-- end -->", results)


def test_shares_agree_where_their_intervals_meet() -> None:
    assert verdict(97, row(0.991, 0.998, 1)) == "higher"  # 97 of 100: up to 98.97 %
    assert verdict(97, row(0.989, 0.998, 1)) == "agrees"
    assert verdict(97, row(0.80, 0.85, 0.91)) == "lower"
    assert verdict(97, row(0.80, 0.85, 0.92)) == "agrees"
    assert verdict(None, row(0, 0.5, 1)) == verdict(97, None) == ""


def test_rows_come_from_the_first_folder_that_has_them(results) -> None:
    assert results.row("badt2i_pixel", "skdcag")["seeds"] == 3
    assert results.row("rickrolling_tpa", "skdcag_text")["seeds"] >= 1
    assert {r.cell.defense for r in results.cells("badt2i_pixel", "skdcag")} == {"skdcag"}
    assert len(results.cells("badt2i_pixel", "skdcag")) == 3
    assert results.row("badt2i_pixel", "nothing") is None
    assert page_results.share(None, "asr") == DASH


@pytest.mark.parametrize("name", pages.TABLES)
def test_every_part_is_a_table_with_numbers(name: str, results) -> None:
    lines = pages.TABLES[name](results).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert len(lines) > 2, "headings, a rule, and a row"


def test_figures_in_sentences() -> None:
    results = page_results.Results(ROOT / "nowhere")
    results.rows["matrix"] = {
        ("a", "d"): {"m": 0.126},
        ("b", "d"): {"m": 0.5},
        ("a", "other"): {"m": 1.0},
    }
    assert pages.value("mean matrix m d all", results) == "31.3"
    assert pages.value("round matrix m d a", results) == "13"
    assert pages.value("range matrix m d a,b", results) == "13 to 50"
    before, after = (f"x <!-- value: round matrix m d b -->{v}<!-- end --> %" for v in ("?", "50"))
    assert pages.page(before, results) == after
    for wrong in (
        "mode matrix m d a",
        "mean matrix m d c",
        "mean matrix m nothing a",
        "mean matrix m",
    ):
        with pytest.raises((KeyError, ValueError)):
            pages.value(wrong, results)
