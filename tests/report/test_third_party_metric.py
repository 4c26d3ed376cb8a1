"""A metric of another package shows in tables, plots and the report by its registration alone."""

from __future__ import annotations

import dataclasses

import pytest
from report_records import DIRECTIONS, record

from t2i_backdoor_bench.contract import Metric, Score, metrics, register_metric
from t2i_backdoor_bench.report.figures import plots, sweeps
from t2i_backdoor_bench.report.html import page
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.store.folder import Store


@pytest.fixture
def records(monkeypatch):
    """A run with the metric, in which its package is no longer installed."""
    monkeypatch.setattr(metrics, "entries", dict(metrics.entries))

    @register_metric(
        "sharpness",
        better="higher",
        title="Sharpness of edges",
        short="Sharp_ness",
        group="quality",
    )
    @dataclasses.dataclass
    class Sharpness(Metric):
        """Sharpness."""

    ways = DIRECTIONS | {"sharpness": metrics.entries["sharpness"].reading}
    del metrics.entries["sharpness"]
    found = []
    for attack in ("one", "two"):
        for i, defense in enumerate(("none", "skdcag[steps=5]", "skdcag[steps=9]")):
            for seed in (0, 1):
                cell = record(
                    attack, defense, seed, 5 if i else 10, 5, 1.0, ("trigger",) if i else ()
                )
                scores = cell.scores | {"sharpness": Score(0.5 + i + seed / 10, n=10)}
                found.append(dataclasses.replace(cell, scores=scores, directions=ways))
    return found


def test_the_tables_have_it(records) -> None:
    found = texts(records)
    assert "| Sharp_ness ↑ |" in found["table.md"]
    assert r"& Sharp\_ness\,$\uparrow$ &" in found["table.tex"]
    assert "| Sharp_ness |" in found["leaderboard.md"]
    assert "## Sharpness of edges" in found["matrix.md"]
    assert "sharpness,sharpness_lo" in found["table.csv"].splitlines()[0]
    assert "**2.55**" in found["table.md"], "the larger is the better"


def test_the_plots_have_it(records, tmp_path) -> None:
    names = {path.name for path in plots.write_figures(Store(tmp_path), records)}
    assert {"sharpness.png", "sharpness.pdf"} <= names
    assert len(sweeps.write_plots(Store(tmp_path), records)) == 1


def test_the_report_has_it(records, tmp_path) -> None:
    text = page.render_report(Store(tmp_path), records)
    assert '<option value="sharpness">Sharp_ness ↑</option>' in text
    assert text.count("Sharp_ness ↑") >= 4, "leaderboard, matrix and table"


def test_older_records_are_read_by_the_registration_of_the_suites_own() -> None:
    old = [record("a", "none", 0, 5, 5, 1.0)]
    assert "title" not in old[0].directions["asr"]
    assert (reading(old, "asr").short, reading(old, "asr").percent) == ("ASR", True)
    assert reading(old, "unknown").short == "unknown"
