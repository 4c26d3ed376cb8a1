"""Files are whole or absent, damage is noticed and said, and records round-trip."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Cell, Record, Score, UserError
from t2i_backdoor_bench.contract.hashing import canonical, digest, plain
from t2i_backdoor_bench.store.atomic import write_atomic
from t2i_backdoor_bench.store.folder import Store


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    return Store(tmp_path / "run", said.append)


def test_plain_values_are_canonical():
    assert (
        canonical({"b": np.float32(0.5), "a": (1, np.bool_(True), None)})
        == '{"a":[1,true,null],"b":0.5}'
    )
    assert plain(float("nan")) is None
    assert digest(np.zeros(3)) != digest(np.ones(3))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_folder_of_which_nothing_came_goes(store, said, tmp_path):
    (tmp_path / "theirs").mkdir()
    theirs = Store(tmp_path / "theirs", said.append)
    for store_ in (store, theirs):
        with store_.working(), store_.claim("cells/x"):
            pass
        store_.drop_locks()
    assert not store.root.exists()
    assert theirs.root.is_dir(), "it was there before"
    full = Store(tmp_path / "full", said.append)
    full.write_record("cells/x", 1)
    full.drop_locks()
    assert full.read_record("cells/x") == 1


def test_records_round_trip(store, said):
    store.write_record("cells/x", {"text": "zero\u200bwidth", "number": 0.1})
    assert store.read_record("cells/x") == {"text": "zero\u200bwidth", "number": 0.1}
    assert store.read_record("cells/y") is None
    assert not said


@pytest.mark.parametrize(
    "damage",
    [lambda t: t.replace("0.5", "0.6"), lambda t: t[: len(t) // 2], lambda t: "", lambda t: "[1]"],
)
def test_a_damaged_record_is_absent_and_said_once(store, said, damage):
    store.write_record("cells/x", {"value": 0.5})
    path = store.root / "cells/x.json"
    path.write_text(damage(path.read_text()))
    assert store.read_record("cells/x") is None
    assert store.read_record("cells/x") is None
    assert len(said) == 1
    assert "x.json" in said[0]
    assert "\n" not in said[0]


def test_arrays_round_trip_and_damage_is_found(store, said):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    store.write_arrays(
        "samples/a",
        {"clean": images, "refused/clean": np.array([True, False])},
        {"cost": {"seconds": 1.5}},
    )
    arrays, meta = store.read_arrays("samples/a")
    assert (arrays["clean"] == images).all()
    assert arrays["refused/clean"].tolist() == [1, 0]
    assert meta == {"cost": {"seconds": 1.5}}
    path = store.root / "samples/a.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert store.damaged("samples/a.safetensors")
    assert store.read_arrays("samples/a") is None
    assert len(said) == 1
    store.write_arrays("samples/a", {"clean": images})
    assert not store.damaged("samples/a.safetensors")
    assert store.read_arrays("samples/a") is not None


def test_a_file_without_its_checksum_is_absent(store):
    store.write_arrays("samples/a", {"x": np.zeros(2, np.uint8)})
    (store.root / "samples/a.safetensors.sha256").unlink()
    assert store.read_arrays("samples/a") is None


def test_a_file_that_is_being_written_is_absent_and_not_damaged(store, said, monkeypatch):
    other, seen, replace = Store(store.root, said.append), [], Path.replace

    def watched(path, target):
        replace(path, target)
        seen.append(other.read_arrays("samples/a") is not None)

    monkeypatch.setattr(Path, "replace", watched)
    store.write_arrays("samples/a", {"x": np.zeros(2, np.uint8)})
    assert seen == [False, True], "the checksum, then the file"
    assert not said


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(partial):
        partial.write_text("ne")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_fresh_ignores_what_it_did_not_write(store):
    store.write_record("cells/x", 1)
    store.write_arrays("samples/x", {"x": np.zeros(2, np.uint8)})
    fresh = Store(store.root, fresh=True)
    assert fresh.read_record("cells/x") is None
    assert fresh.read_arrays("samples/x") is None
    fresh.write_record("cells/x", 2)
    assert fresh.read_record("cells/x") == 2


def test_results_round_trip(store):
    cell = Cell("shapes", "a", "d", 0, "k", {"seed": 0})
    score = Score(0.5, 0.1, 0.9, 2, "net", "", [True, False])
    result = Record(
        cell, "done", {"asr": score}, ("trigger",), {"trigger": {}}, {"n": 1}, {"seconds": 1.0}
    )
    result.directions = {"asr": {"better": "lower", "percent": True}}
    store.write_result(result)
    found = store.read_result("k")
    assert found == result
    assert found.scores["asr"].each == [True, False]
    assert isinstance(found.scores["asr"].each[0], bool)
    assert found.directions["asr"]["percent"] is True
    assert [r.cell.key for r in store.all_results()] == ["k"]
    json.loads((store.root / "cells/k.json").read_text())


def test_an_unwritable_folder_is_a_user_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="--out"):
        Store(file / "run")


def test_files_that_are_dated_ahead_are_made_anew_too(tmp_path: Path) -> None:
    """With `fresh`, and in the other processes of the same run."""
    old = Store(tmp_path)
    old.write_record("cells/a", 1)
    old.write_arrays("samples/a", {"x": np.zeros(3, np.uint8)})
    ahead = 4_000_000_000  # in the year 2096
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (ahead, ahead))
    store = Store(tmp_path, fresh=True)
    other = Store(tmp_path, since=store.since)
    for one in (store, other):
        assert one.read_record("cells/a") is None
        assert one.read_arrays("samples/a") is None
    store.write_record("cells/a", 2)
    assert store.read_record("cells/a") == 2
