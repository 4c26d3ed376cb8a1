"""A metric of every defense against every attack, from handmade records."""

import dataclasses

import numpy as np
import pytest
from report_records import EXTRA, record, records, share  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.report import matrix, texts
from t2i_backdoor_bench.report.figures import plots
from t2i_backdoor_bench.store.folder import Store

WAYS = EXTRA["directions"] | {
    "detection_auroc": {"better": "higher", "percent": False},
    "refusal_rate": {"better": "lower", "percent": True},
}


def detecting(one, auroc):
    scores = one.scores | {"detection_auroc": Score(auroc, n=20), "refusal_rate": share(1)}
    return dataclasses.replace(one, scores=scores, directions=WAYS)


def test_values_are_those_of_the_table(records):
    found = {m.name: m for m in matrix.matrices(records)}
    assert set(found) == {"matrix", "removal"}
    lead = found["matrix"]
    assert (lead.defenses, lead.attacks) == (
        ["none", "skdcag", "weak_one"],
        ["bad_pixel", "bad_style"],
    )
    assert lead.values == pytest.approx(np.array([[0, 10], [95, 50], [40, np.nan]]), nan_ok=True)
    assert lead.means == pytest.approx([5, 72.5, np.nan], nan_ok=True)
    text = matrix.to_markdown(records)
    assert "| skdcag | trigger | 95.0 | 50.0 | 72.5 |" in text
    assert "| weak_one | trigger, clean pairs | 40.0 | – | – |" in text


def test_detectors_have_views_of_their_own(records, tmp_path):
    more = [
        detecting(record(a, "watch", 0, 0, 0, 1.0), v)
        for a, v in (("bad_pixel", 0.5), ("bad_style", 0.987))
    ]
    found = {m.name: m for m in matrix.matrices([*records, *more])}
    assert found["detection"].defenses == found["refusal"].defenses == ["watch"]
    assert "| watch | – | 0.50 | 0.99 | 0.74 |" in matrix.to_markdown([*records, *more])
    names = {p.name for p in plots.write_figures(Store(tmp_path), [*records, *more])}
    assert {"detection.png", "refusal.pdf", "matrix.png"} <= names


def test_one_attack_and_attacks_alone_are_laid_out_by_the_tables(records, tmp_path):
    path, alone = tmp_path / "matrix.md", [r for r in records if r.cell.defense == "none"]
    assert path in texts.write(records, tmp_path)
    assert path not in texts.write(records[:6], tmp_path)
    assert not path.exists(), "an older one would say what no longer holds"
    assert path not in texts.write(alone, tmp_path)
