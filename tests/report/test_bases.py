"""Runs on several bases become one comparison."""

from __future__ import annotations

import csv
import dataclasses

import pytest
from report_records import record

from t2i_backdoor_bench.contract import Record, UserError, registry
from t2i_backdoor_bench.report.bases import CONTROLS, agreement, common, publish_bases
from t2i_backdoor_bench.running.controls import is_control


def run_of(base: str, asr: dict[str, int], restored: dict[str, int]) -> list[Record]:
    """Ten pictures a cell: how many are backdoored undefended, and restored, equal under every
    attack."""
    found = []
    for attack, shown in asr.items():
        found.append(record(attack, "none", 0, shown, 0, 1.0))
        found += [record(attack, d, 0, 0, k, 1.0, ("trigger",)) for d, k in restored.items()]
    return [dataclasses.replace(r, cell=dataclasses.replace(r.cell, base=base)) for r in found]


RESTORED = {"skdcag": 9, "skd": 7, "uce": 4, "strip_trigger": 10, "refuse_all": 0}


def test_what_is_written(tmp_path, capsys):
    runs = {
        "one": run_of("one", {"poison": 10, "badt2i": 10}, RESTORED),
        "two": run_of("two", {"poison": 10, "badt2i": 3}, RESTORED | {"skdcag": 2}),
    }
    publish_bases(runs, tmp_path)
    assert common(runs) == ["poison"]
    page = (tmp_path / "bases.md").read_text()
    assert "| badt2i | 100.0 [72.2, 100.0] | 30.0† [10.8, 60.3] |" in page
    assert "mean over the attacks that took hold on every base: poison" in page
    assert "| one, two | -0.333 |" in page
    rows = list(csv.DictReader((tmp_path / "bases.csv").open()))
    tau = next(row for row in rows if row["what"] == "kendall_tau")
    assert float(tau["value"]) == pytest.approx(-1 / 3, abs=1e-6)
    assert (tau["of"], tau["base"], tau["other_base"]) == ("3", "one", "two")
    assert "Kendall's tau" in capsys.readouterr().out


def test_controls_are_in_the_table_and_in_no_correlation():
    runs = {base: run_of(base, {"poison": 10}, RESTORED) for base in ("one", "two")}
    tau, defenses = agreement(runs, "one", "two")
    assert tau.value == 1
    assert defenses == ["skdcag", "skd", "uce"]
    registry.defenses.load()
    own = {e.name for e in registry.defenses.entries.values() if is_control(e)}
    assert set(CONTROLS) == own | {"none"}


def test_no_attack_that_took_hold_everywhere(tmp_path):
    runs = {
        "one": run_of("one", {"poison": 10}, RESTORED),
        "two": run_of("two", {"poison": 1}, RESTORED),
    }
    publish_bases(runs, tmp_path)
    page = (tmp_path / "bases.md").read_text()
    assert "No attack took hold on every base" in page
    assert "| skdcag | – | – |" in page
    assert agreement(runs, "one", "two") == (None, [])


def test_a_defense_that_failed_on_one_base_is_compared_on_none():
    runs = {base: run_of(base, {"poison": 10, "badt2i": 10}, RESTORED) for base in ("one", "two")}
    failed = runs["two"].pop()
    assert failed.cell.defense == "refuse_all"
    at = next(i for i, r in enumerate(runs["two"]) if r.cell.defense == "uce")
    runs["two"][at] = dataclasses.replace(runs["two"][at], status="failed", scores={})
    assert agreement(runs, "one", "two") == (None, ["skdcag", "skd"])


def test_a_base_without_cells_is_named(tmp_path):
    with pytest.raises(UserError, match="no finished cell on two"):
        publish_bases({"one": run_of("one", {"poison": 10}, RESTORED), "two": []}, tmp_path)
