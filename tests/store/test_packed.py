"""The records of a run folder as one compressed file: the same records, and nothing a stranger can
do by it."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import StorageError, UserError
from t2i_backdoor_bench.report import texts
from t2i_backdoor_bench.running.agreement import damaged_files
from t2i_backdoor_bench.store import packed
from t2i_backdoor_bench.store.claims import records_digest
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.packed import PACKED, read_packed, write_packed
from t2i_backdoor_bench.store.packing import pack, unpack
from t2i_backdoor_bench.store.records import stored_records

RESULTS = Path(__file__).resolve().parents[2] / "results" / "protocol-2-check"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of committed results, with the records of six cells."""
    folder, loose = tmp_path / "run", RESULTS / "cells"
    if not loose.is_dir():  # they may be packed themselves
        shutil.copytree(RESULTS, tmp_path / "whole")
        unpack(tmp_path / "whole")
        loose = tmp_path / "whole" / "cells"
    (folder / "cells").mkdir(parents=True)
    for path in sorted(loose.glob("*.json"))[:6]:
        shutil.copy(path, folder / "cells")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_packed_and_unpacked_it_is_the_same_folder(run):
    before, store = contents(run), Store(run)
    records, digest = store.all_results(), records_digest(store)
    tables = texts.texts(stored_records(store))
    said = pack(run)
    assert "6 records" in said
    assert list(contents(run)) == [PACKED]
    size = (run / PACKED).stat().st_size
    assert size < sum(map(len, before.values())) / 5
    for read_only in (True, False):
        again = Store(run, pytest.fail, read_only=read_only)
        assert again.all_results() == records
        assert again.read_result(records[0].cell.key) == records[0]
        assert records_digest(again) == digest, "what was signed stays signed"
        assert texts.texts(stored_records(again)) == tables
        assert damaged_files(again) == []
    unpack(run)
    assert contents(run) == before


def test_the_same_records_give_the_same_bytes(run, tmp_path):
    texts_of = {path.stem: path.read_bytes() for path in (run / "cells").iterdir()}
    write_packed(tmp_path / "one", texts_of)
    write_packed(tmp_path / "two", dict(reversed(texts_of.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_packed(tmp_path / "one") == texts_of


def test_work_goes_on_in_a_packed_folder(run):
    first, second, *_ = Store(run).all_results()
    pack(run)
    store = Store(run)
    first.error = "other"
    store.write_result(first)
    assert store.read_result(first.cell.key).error == "other", "its own file is newer"
    store.drop_result(second.cell.key)
    assert store.read_result(second.cell.key) is None
    assert len(Store(run).all_results()) == 5
    assert not (run / PACKED).exists()
    fresh = Store(run, fresh=True)
    assert fresh.all_results() == []


def test_a_fresh_run_does_not_read_what_is_packed(run):
    pack(run)
    assert Store(run, fresh=True).all_results() == []


def test_a_second_pack_takes_new_records_in(run, tmp_path):
    path = min((run / "cells").iterdir())
    shutil.move(path, tmp_path / path.name)
    pack(run)
    (run / "cells").mkdir()
    shutil.move(tmp_path / path.name, path)
    assert "6 records" in pack(run)
    assert len(Store(run).all_results()) == 6


def test_what_is_damaged_is_not_packed(run):
    path = min((run / "cells").iterdir())
    path.write_bytes(path.read_bytes().replace(b"done", b"gone", 1))
    before = contents(run)
    with pytest.raises(UserError, match=r"nothing was packed: .*damaged"):
        pack(run)
    assert contents(run) == before


def test_a_record_in_the_file_is_checked_as_its_own_file_is(run):
    pack(run)
    found = read_packed(run / PACKED)
    key = min(found)
    write_packed(run / PACKED, found | {key: found[key].replace(b'"done"', b'"fine"', 1)})
    said: list[str] = []
    store = Store(run, said.append)
    assert store.read_result(key) is None
    assert len(store.all_results()) == 5
    assert len(said) == 1
    assert damaged_files(store) == [f"cells/{key}.json is damaged"]


LINE = json.dumps({"key": "a", "text": "{}"})
NO_RECORDS: dict[str, Callable[[], bytes]] = {
    "no xz": lambda: b"PK\x03\x04" * 20,
    "nothing": lambda: b"",
    "cut off": lambda: lzma.compress(LINE.encode())[:-9],
    "more behind it": lambda: lzma.compress(LINE.encode()) + b"x",
    "no json": lambda: lzma.compress(b"{"),
    "a list": lambda: lzma.compress(b"[1]"),
    "no text": lambda: lzma.compress(b'{"key": "a", "text": 1}'),
    "another key": lambda: lzma.compress(b'{"key": "a", "text": "", "more": 1}'),
    "a path": lambda: lzma.compress(b'{"key": "../../a", "text": "{}"}'),
    "twice": lambda: lzma.compress(f"{LINE}\n{LINE}".encode()),
    "deep": lambda: lzma.compress(b"[" * 100_000),
    "a bomb": lambda: lzma.compress(b" " * 3_000_000),
    "much memory": lambda: lzma.compress(LINE.encode()),
}


@pytest.mark.parametrize("case", NO_RECORDS)
def test_what_is_no_such_file_is_damaged_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MOST_BYTES", 2_000_000)
    if case == "much memory":
        monkeypatch.setattr(packed, "MEMORY", 2**20)
    (tmp_path / PACKED).write_bytes(NO_RECORDS[case]())
    said: list[str] = []
    store = Store(tmp_path, said.append)
    assert store.all_results() == []
    assert store.read_result("a") is None
    (line,) = said
    assert line.startswith(f"{tmp_path / PACKED} is damaged (")
    assert damaged_files(store)[0].startswith(f"{PACKED} is damaged")
    with pytest.raises(UserError):
        unpack(tmp_path)
    assert (tmp_path / PACKED).is_file()


def test_too_many_records_are_refused(tmp_path, monkeypatch):
    write_packed(tmp_path / PACKED, {"a": b"{}", "b": b"{}"})
    monkeypatch.setattr(packed, "MOST_RECORDS", 1)
    with pytest.raises(ValueError, match="too many"):
        read_packed(tmp_path / PACKED)


def test_a_link_is_refused(run, tmp_path):
    pack(run)
    shutil.move(run / PACKED, tmp_path / "elsewhere")
    (run / PACKED).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link"):
        Store(run, read_only=True)


def test_the_verb(run, tmp_path, capsys):
    assert command.main(["pack", str(run)]) == 0
    assert "6 records" in capsys.readouterr().out
    assert command.main(["pack", str(run), "--undo"]) == 0
    assert len(list((run / "cells").iterdir())) == 6
    assert command.main(["pack", str(run), "--undo"]) == 2
    assert "nothing to unpack" in capsys.readouterr().err
    assert command.main(["pack", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert command.main(["pack", str(tmp_path / "empty")]) == 2
    with Store(run).working():
        assert command.main(["pack", str(run)]) == 2
    assert "another process works" in capsys.readouterr().err
