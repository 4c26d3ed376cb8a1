"""Differences of two defenses from their records: by pictures, by cells, and of equal attacks."""

import dataclasses

import numpy as np
import pytest
from report_records import record

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.paired import difference
from t2i_backdoor_bench.stats import estimates as stats


def rows(restored: dict[str, tuple[int, int]]):
    """Two seeds of each defense, so many of ten restored, with FID 1.0 and 1.1 and one better."""
    return {
        name: [
            record("bad", name, s, 0, k, 1.0 + 0.1 * s - 0.2 * (name == "better"))
            for s, k in enumerate(ks)
        ]
        for name, ks in restored.items()
    }


def test_pictures_are_paired_where_both_have_them():
    found = rows({"better": (9, 10), "worse": (4, 6)})
    ours, theirs = (
        {"bad": {r.cell.seed: np.array(r.scores[LEAD].each) for r in found[name]}}
        for name in ("better", "worse")
    )
    expected = stats.paired_difference(ours, theirs)
    assert difference(found["better"], found["worse"], LEAD) == expected
    assert expected.value == pytest.approx(0.45)


def test_numbers_of_cells_are_paired_by_seed():
    found = rows({"better": (9, 10), "worse": (4, 6)})
    fid = difference(found["better"], found["worse"], "fid")
    assert (fid.value, fid.error) == pytest.approx((-0.2, 0), abs=1e-12), "the same in both seeds"
    refused = [
        dataclasses.replace(r, scores=r.scores | {LEAD: Score(0.9, n=8, each=[True] * 8)})
        for r in found["better"]
    ]
    fewer = difference(refused, found["worse"], LEAD)
    assert fewer.value == pytest.approx(0.9 - 0.5), "other numbers of pictures: cell by cell"


def test_attacked_models_that_are_not_the_same_are_not_compared():
    def of(weights, cells):
        return [dataclasses.replace(r, provenance={"attack_weights": weights}) for r in cells]

    found = rows({"better": (9, 10), "worse": (4, 6)})
    assert difference(of("11", found["better"]), of("22", found["worse"]), LEAD) is None
    assert difference(of("11", found["better"]), of("11", found["worse"]), LEAD) is not None
    assert difference(found["better"], found["worse"], "kid") is None
    assert difference(found["better"][:1], found["worse"][1:], LEAD) is None, "no seed in common"
