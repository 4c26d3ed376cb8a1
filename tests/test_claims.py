"""The page that puts published figures beside measured ones is made from the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import load_script

ROOT = Path(__file__).parents[1]
claims = load_script(ROOT / "benchmarks" / "claims.py")


def row(low: float, value: float, high: float) -> dict[str, float]:
    return {"removal_accuracy": value, "removal_accuracy_lo": low, "removal_accuracy_hi": high}


def test_the_page_is_up_to_date() -> None:
    made = claims.page(ROOT / "results")
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == made, "run python benchmarks/claims.py"


def test_shares_agree_where_their_intervals_meet() -> None:
    assert claims.verdict(97, row(0.991, 0.998, 1)) == "higher"  # 97 of 100: up to 98.97 %
    assert claims.verdict(97, row(0.989, 0.998, 1)) == "agrees"
    assert claims.verdict(97, row(0.80, 0.85, 0.91)) == "lower"
    assert claims.verdict(97, row(0.80, 0.85, 0.92)) == "agrees"
    assert claims.verdict(None, row(0, 0.5, 1)) == claims.verdict(97, None) == ""


def test_rows_come_from_the_first_folder_that_has_them() -> None:
    results = claims.Results(ROOT / "results")
    assert results.row("badt2i_pixel", "skdcag")["seeds"] == 3
    assert results.row("rickrolling_tpa", "skdcag_text")["seeds"] >= 1
    assert {r.cell.defense for r, _ in results.cells("badt2i_pixel", "skdcag")} == {"skdcag"}
    assert len(results.cells("badt2i_pixel", "skdcag")) == 3
    assert results.row("badt2i_pixel", "nothing") is None
    assert claims.share(None, "asr") == claims.DASH


@pytest.mark.parametrize("name", claims.PARTS)
def test_every_part_is_a_table_with_numbers(name: str) -> None:
    lines = claims.PARTS[name](claims.Results(ROOT / "results")).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 3
