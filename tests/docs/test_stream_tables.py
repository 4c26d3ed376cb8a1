"""The tables of blind removal, from made-up records."""

from __future__ import annotations

from pathlib import Path

import page_results
import pytest
import stream_tables

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.stats.estimates import wilson
from t2i_backdoor_bench.store.folder import Store

RARE = (
    "badt2i_object+exposed[stream=1000,share=0.01]",
    "badt2i_object+exposed[stream=1000,share=0]",
)
CLEAN, FLOOD = "checkpoint[trigger=cat]+exposed[share=0]", "badt2i_object+exposed[flood=dog]"


DIRECTIONS = {
    name: {"better": "higher", "percent": True}
    for name in ("restoration_accuracy", "location_recall", "prompt_fidelity")
}


def score(value: float | None) -> Score:
    if value is None:
        return Score(None)
    flags = [i < round(10 * value) for i in range(10)]
    return Score(value, *wilson(sum(flags), 10), 10, "net", "", flags)


def record(attack: str, defense: str, seed: int, accepted: int, **scores: float | None) -> Record:
    found = {name: score(value) for name, value in scores.items()}
    found["trigger_accepted"] = Score(accepted, n=1, each=[bool(accepted)])
    cell = Cell("shapes", attack, defense, seed, f"{attack}{defense}{seed}")
    return Record(cell, "done", found, directions=DIRECTIONS)


@pytest.fixture
def results(tmp_path: Path) -> page_results.Results:
    for name, records in MADE.items():
        store = Store(tmp_path / "studies" / name)
        for r in records:
            store.write_result(r)
    return page_results.Results(tmp_path)


MADE = {
    "stream_share": [
        record(attack, defense, seed, hit, restoration_accuracy=0.9 * hit, location_recall=hit)
        for i, attack in enumerate(RARE)
        for defense, hit in (("none", 0), ("rare_locate+trace_mend", 1 - i))
        for seed in range(3)
    ],
    "stream_kinds": [
        record(CLEAN, "x", 0, 1, prompt_fidelity=0.5, location_recall=None),
        record(CLEAN, "x", 1, 0, prompt_fidelity=0.7, location_recall=None),
        record(CLEAN, "none", 0, 0, prompt_fidelity=0.7),
        record(FLOOD, "x", 0, 1, prompt_fidelity=0.5, location_recall=1, restoration_accuracy=0.9),
    ],
    "blind_repair": [record("badt2i_object", "x", s, 1, restoration_accuracy=0.8) for s in (0, 1)],
}


def cells(text: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]


def test_what_is_found_by_the_share_of_the_stream(results) -> None:
    head, _, none, rare = cells(stream_tables.stream_share(results))
    assert head[1:] == [
        f"`rare_locate+trace_mend` {w}" for w in ("accepted", "recall %", "restored %")
    ]
    assert none[:2] == ["0 %", "0 of 3"]
    assert rare[:2] == ["1 %", "3 of 3"]
    assert rare[2].startswith("100.0 [")
    assert rare[3].startswith("90.0 [")


def test_false_alarms_are_counted_in_runs(results) -> None:
    found = {row[0]: row for row in cells(stream_tables.stream_kinds(results))}
    clean, flood = found[f"`{CLEAN}`"], found[f"`{FLOOD}`"]
    assert clean[:4] == [f"`{CLEAN}`", "1 of 2", page_results.DASH, page_results.DASH]
    assert clean[4].startswith("60.0 [")
    assert flood[1] == "1 of 1"
    _, _, row = cells(stream_tables.blind_repair(results))
    assert row[1] == "2 of 2"
    assert row[2].startswith("80.0 [")
