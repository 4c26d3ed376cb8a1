"""Handmade records of a run with two attacks and two defenses, which tests of tables share."""

import dataclasses

import pytest

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.report.formats import csv as csv_writer
from t2i_backdoor_bench.report.formats import latex, markdown
from t2i_backdoor_bench.report.main_table import main_table
from t2i_backdoor_bench.report.table import plain_table
from t2i_backdoor_bench.stats import estimates as stats

DIRECTIONS = {
    "asr": {"better": "lower", "percent": True},
    "removal_accuracy": {"better": "higher", "percent": True},
    "restoration_accuracy": {"better": "higher", "percent": True},
    "fid": {"better": "lower", "percent": False},
    "clip_score": {"better": "higher", "percent": False},
}
PROTOCOL = {
    "base": "shapes",
    "evaluation": {"n": 10, "real": 100},
    "sampler": {"name": "DPM-Solver++", "steps": 15, "guidance": 4.0},
    "prompts": "shapes evaluation split",
    "scorer": "tiny",
    "training": 1.0,
}
EXTRA = {"directions": DIRECTIONS, "protocol": PROTOCOL}


def share(k, n=10):
    flags = [i < k for i in range(n)]
    return Score(k / n, *stats.wilson(k, n), n, "net", "", flags)


def record(attack, defense, seed, asr, restored, fid, needs=(), status="done"):
    scores = {
        "asr": share(asr),
        "removal_accuracy": share(10 - asr),
        "restoration_accuracy": share(restored),
        "fid": Score(fid, n=10, network="net"),
        "clip_score": Score(20.0 + asr / 100, n=10, network="net", each=[20.0 + asr / 100] * 10),
    }
    cost = {"seconds": 2.0 + seed, "steps": 4, "seconds_attack": 9.0}
    cell = Cell("shapes", attack, defense, seed, f"{attack}-{defense}-{seed}")
    return Record(
        cell,
        status,
        scores if status == "done" else {},
        needs,
        cost=cost if status == "done" else {},
        **EXTRA,
    )


def to_latex(records):
    return latex.write(main_table(records), "tab:main")


def to_markdown(records):
    return markdown.write(main_table(records))


def to_csv(rows):
    return csv_writer.write(plain_table(rows))


@pytest.fixture
def records():
    return [
        record("bad_pixel", "none", 0, 10, 0, 1.0),
        record("bad_pixel", "none", 1, 10, 0, 1.2),
        record("bad_pixel", "skdcag", 0, 0, 9, 1.1, ("trigger",)),
        record("bad_pixel", "skdcag", 1, 0, 10, 1.3, ("trigger",)),
        record("bad_pixel", "weak_one", 0, 6, 4, 1.05, ("trigger", "clean_pairs")),
        record("bad_pixel", "weak_one", 1, 4, 4, 1.05, ("trigger", "clean_pairs")),
        record("bad_style", "none", 0, 9, 1, 1.0),
        record("bad_style", "none", 1, 9, 1, 1.0),
        record("bad_style", "skdcag", 0, 2, 5, 1.0, ("trigger",)),
        record("bad_style", "skdcag", 1, 2, 5, 1.0, ("trigger",), status="failed"),
        record("bad_style", "weak_one", 0, 5, 5, 1.0, ("trigger", "clean_pairs"), status="failed"),
        record("bad_style", "weak_one", 1, 5, 5, 1.0, ("trigger", "clean_pairs"), status="failed"),
    ]


def with_targets(records):
    """The records with the targets of their attacks."""
    kinds = {"bad_pixel": "patch", "bad_style": "style"}
    return [
        dataclasses.replace(r, backdoor={"target": {"kind": kinds[r.cell.attack]}}) for r in records
    ]


def find(table, attack, defense):
    return next(r for r in table if (r["attack"], r["defense"]) == (attack, defense))
