"""Numbers of two protocols, or of two runs, never stand in one table."""

from __future__ import annotations

import pytest

from t2i_backdoor_bench.contract import PROTOCOL, Cell, Record, Score, UserError
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def record(key: str, protocol: int | None) -> Record:
    said = {} if protocol is None else {"protocol": protocol}
    cell = Cell("tiny", "an_attack", "none", 0, key * 64)
    return Record(cell, "done", {"asr": Score(1.0)}, protocol=said)


@pytest.fixture
def store(tmp_path):
    lines: list[str] = []
    return Store(tmp_path / "run", lines.append), lines


def test_records_of_the_newest_protocol_alone_are_shown(store):
    folder, lines = store
    for key, protocol in (("a", None), ("b", 1), ("c", PROTOCOL)):
        folder.write_result(record(key, protocol))
    assert [r.cell.key[0] for r in stored_records(folder)] == ["c"]
    assert len(lines) == 1
    assert "2 records of protocol 1 are left out" in lines[0]


def test_an_old_folder_is_shown_and_says_so(store):
    folder, lines = store
    folder.write_result(record("a", None))
    assert [r.measured_by for r in stored_records(folder)] == [1]
    assert "was measured by protocol 1" in lines[0]


def test_a_new_folder_says_nothing(store):
    folder, lines = store
    folder.write_result(record("a", PROTOCOL))
    assert [r.measured_by for r in stored_records(folder)] == [PROTOCOL]
    assert lines == []


def test_what_a_stranger_wrote_there_is_protocol_one():
    assert record("a", "two").measured_by == 1


def test_two_records_of_a_cell_without_a_plan_are_refused(store):
    """As of two settings of one defense: their mean would be of neither."""
    folder, _ = store
    for key in "ab":
        folder.write_result(record(key, PROTOCOL))
    (folder.root / "run.json").write_text('{"payload": {}, "sha256": ""}')
    with pytest.raises(UserError, match="several records of an_attack x none, seed 0, and no plan"):
        stored_records(folder)
