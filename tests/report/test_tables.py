"""Rows from handmade records: pooling, paired tests, notes."""

import dataclasses

import numpy as np
import pytest
from ranked_records import run
from report_records import (  # noqa: F401 - a fixture
    DIRECTIONS,
    EXTRA,
    PROTOCOL,
    find,
    record,
    records,
    share,
    to_csv,
    to_latex,
    to_markdown,
    with_targets,
)

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.report import rows as rows_module
from t2i_backdoor_bench.report.main_table import columns, heading
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.pooling import pool
from t2i_backdoor_bench.report.rows import long_rows, remembering
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.stats import estimates as stats


def test_seeds_are_pooled(records):
    table = rows_of(records)
    assert [(r["attack"], r["defense"]) for r in table[:3]] == [
        ("bad_pixel", d) for d in ("none", "skdcag", "weak_one")
    ]
    weak = find(table, "bad_pixel", "weak_one")
    expected = stats.pool_proportion([share(6).each, share(4).each])
    assert (weak["asr"], weak["asr_lo"], weak["asr_hi"]) == tuple(expected)
    skdcag = find(table, "bad_pixel", "skdcag")
    assert skdcag["fid"] == pytest.approx(1.2)
    assert skdcag["fid_lo"] < 1.2 < skdcag["fid_hi"]
    assert skdcag["seeds"] == 2
    assert skdcag["needs"] == "trigger"
    assert skdcag["n"] == 10
    assert skdcag["seconds"] == 2.5
    assert skdcag["seconds_per_step"] == pytest.approx(0.625)
    assert find(table, "bad_pixel", "none")["needs"] == ""


def test_the_change_of_fid_is_that_of_each_seed(records):
    table = rows_of(records)
    skdcag = find(table, "bad_pixel", "skdcag")
    mean, half = (
        (0.1 + 1 / 12) / 2,
        12.7062 * (0.1 - 1 / 12) / 2,
    )  # Student's t of two seeds, one degree of freedom
    assert skdcag["fid_change"] == pytest.approx(mean)
    assert [skdcag["fid_change_lo"], skdcag["fid_change_hi"]] == pytest.approx(
        [mean - half, mean + half], rel=1e-4
    )
    one = find(table, "bad_style", "skdcag")
    assert (one["fid_change"], one["fid_change_lo"]) == (0.0, None), "one seed has no interval"
    assert find(table, "bad_pixel", "none")["fid_change"] is None
    assert find(table, "bad_style", "weak_one")["fid_change"] is None


def test_failed_and_partial_rows(records):
    table = rows_of(records)
    partial, failed = find(table, "bad_style", "skdcag"), find(table, "bad_style", "weak_one")
    assert partial["status"] == "partial"
    assert partial["seeds"] == 1
    assert partial["asr"] == 0.2
    assert failed["status"] == "failed"
    assert failed["seeds"] == 0
    assert failed["asr"] is None
    assert failed["seconds"] is None
    assert failed["p_removal_vs_skdcag"] is None
    assert list(failed) == list(partial)


def test_paired_tests_against_skdcag(records):
    table = rows_of(records)
    row = find(table, "bad_pixel", "weak_one")
    weak, strong = share(4).each + share(6).each, share(10).each * 2
    assert row["p_removal_vs_skdcag"] == pytest.approx(stats.mcnemar(weak, strong))
    assert find(table, "bad_pixel", "skdcag")["p_removal_vs_skdcag"] is None
    assert find(table, "bad_pixel", "none")["p_restoration_vs_skdcag"] < 1e-4


def test_a_metric_without_value_keeps_its_reason(records):
    result = records[0]
    result.scores["fid"] = Score(None, n=24, network="net", note="FID needs 64 images")
    long = long_rows(records)
    row = next(
        r for r in long if r["metric"] == "fid" and r["defense"] == "none" and r["seed"] == 0
    )
    assert row["value"] is None
    assert row["note"] == "FID needs 64 images"
    pooled = pool([result.scores["fid"], records[1].scores["fid"]])
    assert pooled.value == 1.2
    assert "1 of 2 seeds" in pooled.note


def test_swept_methods_are_tested_against_the_variant_with_the_same_value():
    cells = [
        (name, k)
        for name, k in (
            ("skd[steps=5]", 6),
            ("skd[steps=9]", 3),
            ("skdcag[steps=5]", 2),
            ("skdcag[steps=9]", 0),
        )
    ]
    records = [record("bad", name, 0, asr, 5, 1.0) for name, asr in [("none", 10), *cells]]
    table = {r["defense"]: r for r in rows_of(records)}
    p = {name: row["p_removal_vs_skdcag"] for name, row in table.items()}
    removed = {name: [not (i < k) for i in range(10)] for name, k in [("none", 10), *cells]}
    assert p["skd[steps=5]"] == pytest.approx(
        stats.mcnemar(removed["skd[steps=5]"], removed["skdcag[steps=5]"])
    )
    assert p["skd[steps=9]"] == pytest.approx(
        stats.mcnemar(removed["skd[steps=9]"], removed["skdcag[steps=9]"])
    )
    assert p["skdcag[steps=9]"] == pytest.approx(
        stats.mcnemar(removed["skdcag[steps=9]"], removed["skdcag[steps=5]"])
    ), "the first"
    assert p["skdcag[steps=5]"] is None


def test_p_values_have_a_test_of_seeds_and_holms_correction_over_attacks():
    """The larger of McNemar's and Student's, times the number of attacks for the smallest."""
    restored = {"a": (90, 60), "b": (90, 89), "c": (90, 80)}
    records = run(
        {d: {a: k[i] for a, k in restored.items()} for i, d in enumerate(("skdcag", "x"))}
    )
    table = {r["attack"]: r for r in rows_of(records) if r["defense"] == "x"}
    name = "p_restoration_vs_skdcag"
    larger = [max(table[a][name], table[a][f"{name}_seeds"]) for a in restored]
    assert [table[a][f"{name}_holm"] for a in restored] == pytest.approx(stats.holm(larger))
    assert all(table[a][f"{name}_holm"] >= table[a][name] for a in restored)
    assert table["a"][f"{name}_seeds"] > table["a"][name], "three seeds say less than 300 pictures"


def test_the_feature_space_of_fid_stands_in_its_heading(records):
    way = reading(records, "fid")
    assert heading(records, way).title == "FID (net, n 10)"
    for r in records:
        if "fid" in r.scores:
            n = 10 if r.cell.defense == "none" else 8
            r.scores["fid"] = dataclasses.replace(r.scores["fid"], network="net/64-d", n=n)
    assert heading(records, way).title == "FID (net, 64-d, n 8 to 10)"
    assert heading([], way).title == "FID"


def test_kid_is_compared_with_the_attacked_model_pair_by_pair(records):
    for r in records:
        if r.status == "done":
            r.protocol = r.protocol | {"protocol": 2}
            each = [0.01 * i for i in range(10)]
            if r.cell.defense == "skdcag":
                each = [v + 0.02 + 0.001 * (i % 2) for i, v in enumerate(each)]
            r.scores["kid"] = Score(float(np.mean(each)), n=10, network="net/64-d", each=each)
            r.directions = r.directions | {"kid": {"better": "lower"}}
    table = rows_of(records)
    row = find(table, "bad_pixel", "skdcag")
    assert row["kid_change"] == pytest.approx(0.0205)
    assert row["kid_change_lo"] > 0.015, "what prompts differ in is not in the interval"
    assert find(table, "bad_pixel", "none")["kid_change"] is None
    assert "fid_change" not in row, "it is of the first protocol"


def test_a_network_that_is_not_here_has_no_column(records):
    for r in records:
        r.directions = r.directions | {"kid_second": {"better": "lower", "only": "weights"}}
    assert "kid_second" not in [way.name for way in columns(records, rows_of(records))]
    records[0].scores["kid_second"] = Score(0.01, n=10, network="other/64-d")
    assert "kid_second" in [way.name for way in columns(records, rows_of(records))]


def test_within_a_report_rows_are_computed_once(records, monkeypatch):
    made = rows_of(records)
    calls = []
    monkeypatch.setattr(rows_module, "one_protocol", lambda found: calls.append(len(found)))
    with remembering():
        first = rows_of(records)
        first[0]["asr"] = "changed by who asked"
        assert rows_of([*records]) == made, "of the same records, in another list"
        assert rows_of(records[:2]) != made
        assert calls == [len(records), 2]
    rows_of(records)
    assert calls == [len(records), 2, len(records)]
