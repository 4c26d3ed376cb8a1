"""What benchmarks/interval_width.py says of the pictures that a scale draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

from t2i_backdoor_bench.contract import Cell, Record, Score, UserError
from t2i_backdoor_bench.stats.estimates import mean_over_attacks
from t2i_backdoor_bench.stats.intervals import wilson

script = load_script(Path(__file__).resolve().parents[2] / "benchmarks" / "interval_width.py")


def record(attack: str, seed: int, flags: list[bool], defense: str = "skd") -> Record:
    score = Score(sum(flags) / len(flags), n=len(flags), each=flags)
    cell = Cell("shapes", attack, defense, seed, f"{attack}{seed}{defense}", {})
    return Record(cell, "done", {"robustness": score})


def test_the_width_is_that_of_the_first_pictures():
    flags = [True] * 6 + [False] * 2
    found = script.values([record("a", 0, flags)], "robustness")
    low, high = wilson(4, 4)
    cell, mean = script.widths(found, 0.5)
    assert cell == pytest.approx((high - low) / 2)
    whole = mean_over_attacks({"a": {0: np.array(flags[:4])}})
    assert mean == pytest.approx((whole.high - whole.low) / 2)


def test_more_pictures_make_a_cell_narrower():
    rng = np.random.default_rng(0)
    records = [record(a, s, (rng.random(64) < 0.7).tolist()) for a in "ab" for s in (0, 1)]
    found = script.values(records, "robustness")
    cells = [script.widths(found, share)[0] for share in (0.25, 0.5, 1.0)]
    assert cells == sorted(cells, reverse=True)
    assert cells[0] > 1.5 * cells[-1]


def test_controls_are_left_out_and_no_pictures_are_refused():
    control = record("a", 0, [True, False], defense="strip_trigger")
    assert script.values([control], "robustness") == {}
    with pytest.raises(UserError, match="no cell of this run"):
        script.lines([control], [1.0])


def test_a_row_says_metric_pictures_and_both_widths():
    records = [record("a", s, [True, False] * 4) for s in (0, 1)]
    head, half, whole = script.lines(records, [0.5, 1.0])
    assert head.split()[:3] == ["metric", "condition", "n"]
    assert half.split()[:3] == ["robustness", "perturbed", "4"]
    assert whole.split()[2] == "8"
    assert len(whole.split()) == 5
