"""Where rows come from, and the warnings where they differ."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
from pathlib import Path

from shifts import config, methods, one_attack  # noqa: F401 - fixtures

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.report.formats import terminal
from t2i_backdoor_bench.report.rows import long_rows
from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

ROOT = Path(__file__).resolve().parents[2]
CODE = {
    "commit": "a" * 40,
    "dirty": False,
    "source": "1",
    "versions": {"python": "3.11", "torch": "2.4.1"},
}
OTHER = CODE | {"commit": "b" * 40, "dirty": True, "source": "2"}
NEWER = CODE | {"versions": {"python": "3.11", "torch": "2.5.0"}}


# ------------------------------------------------------------------------------------------ records
def record(seed: int, *codes: dict, status: str = "done") -> Record:
    scores = {"asr": Score(0.5, 0.4, 0.6, 10, "net")}
    return Record(
        Cell("b", "a", "d", seed, f"k{seed}"),
        status,
        scores if status == "done" else {},
        directions={"asr": {"better": "lower", "percent": True}},
        provenance={"codes": list(codes), "judge": "patch rule"} if codes else {},
    )


def test_no_warning_where_code_and_versions_are_the_same_or_nothing_is_known() -> None:
    assert provenance.warning([record(0, CODE), record(1, CODE)]) == ""
    assert provenance.warning([record(0), record(1)]) == ""
    assert provenance.warning([record(0, CODE), record(1, OTHER, status="failed")]) == ""


def test_warnings_say_what_differs() -> None:
    assert "by different code (aaaaaaaaa, bbbbbbbbb+)" in provenance.warning(
        [record(0, CODE), record(1, OTHER)]
    )
    assert "by different code" in provenance.warning([record(0, CODE, OTHER)]), (
        "the images by one, the scores by another"
    )
    text = provenance.warning([record(0, CODE), record(1, NEWER)])
    assert "with torch 2.4.1 and 2.5.0" in text
    assert "code" not in text
    assert "python" not in text
    assert "1 of 2 in part or whole by code that their records do not name" in provenance.warning(
        [record(0, CODE), record(1)]
    )


def test_the_warning_is_one_line_under_every_table_that_people_read(capsys) -> None:
    found, line = (
        texts([record(0, CODE), record(1, OTHER)]),
        "Warning: rows were made by different code",
    )
    assert found["table.md"].splitlines()[-1].startswith(line)
    assert line in found["table.tex"]
    terminal.show([record(0, CODE), record(1, OTHER)])
    assert line in capsys.readouterr().out
    same = texts([record(0, CODE), record(1, CODE)])
    assert not any("Warning" in text for text in same.values())


def test_rows_of_a_run_say_where_they_come_from(one_attack) -> None:
    assert command.run(one_attack) == 0
    with (one_attack.folder / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    plan_, here = plan(one_attack), provenance.current_code()
    assert {r["base_hash"] for r in rows} == {plan_.shared["base"]["weights"][:16]}
    assert {r["attack_hash"] for r in rows} == {plan_.attack_key("shift_attack", 0)[:16]}
    assert {r["commit"] for r in rows} == {here["commit"][:12] or "unknown"}
    assert {r["dirty"] for r in rows} == {"yes" if here["dirty"] else "no"}
    assert all(f"torch={here['versions']['torch']}" in r["versions"] for r in rows)
    assert {r["judge"] for r in rows} == {"patch rule"}
    assert {r["seed"] for r in rows} == {"0"}
    assert {r["network"] for r in rows if r["metric"] == "kid"} == {"tiny-scorer/16-d"}
    found = Store(one_attack.folder).read_result(plan_.cells[0].key).provenance
    assert found["attack_weights"] == file_digest(
        one_attack.folder / "models" / f"{found['attack']}.safetensors"
    )
    assert found["networks"]["kid"] == "tiny-scorer/16-d"
    assert found["codes"] == [here]


def test_a_completed_cell_keeps_the_code_that_began_it(one_attack, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "current_code", lambda: CODE)
    assert command.run(dataclasses.replace(one_attack, metrics="asr")) == 0
    monkeypatch.setattr(provenance, "current_code", lambda: OTHER)
    assert command.run(one_attack) == 0
    for result in stored_records(Store(one_attack.folder)):
        assert set(result.scores) == {"asr", "kid"}
        assert result.provenance["codes"] == [CODE, OTHER]
    assert "different code" in (one_attack.folder / "table.md").read_text()


def test_older_records_stay_readable_and_are_not_made_again(one_attack) -> None:
    assert command.run(one_attack) == 0
    store = Store(one_attack.folder)
    for path in (one_attack.folder / "cells").iterdir():
        payload = store.read_record(f"cells/{path.stem}")
        del payload["extra"]["provenance"]
        store.write_record(f"cells/{path.stem}", payload)
    times = {p: p.stat().st_mtime_ns for p in (one_attack.folder / "cells").iterdir()}
    assert command.run(one_attack) == 0
    assert times == {p: p.stat().st_mtime_ns for p in (one_attack.folder / "cells").iterdir()}
    with (one_attack.folder / "rows.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["commit"] == row["versions"] == ""
    assert row["base_hash"]
    assert row["attack_hash"]


def test_the_published_records_are_readable() -> None:
    store = Store(ROOT / "results" / "reference")
    assert all(r.status == "done" for r in store.all_results())
    assert len(long_rows(store.all_results())) > 100


def test_the_source_digest_sees_a_changed_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.py").write_text("x = 1")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "bench")
    first = provenance.source_digest()
    (tmp_path / "bench" / "notes.md").write_text("words")
    assert provenance.source_digest() == first
    (tmp_path / "bench" / "a.py").write_text("x = 2")
    assert provenance.source_digest() != first
    assert provenance.commit() == "", "no checkout"


def test_the_source_digest_of_a_clone_is_that_of_its_installation(tmp_path, monkeypatch) -> None:
    for folder in ("clone/bench", "clone/attacks", "installed/attacks"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("clone/bench/a.py", "installed/a.py"):
        (tmp_path / name).write_text("x = 1")
    for name in ("clone/attacks/b.py", "installed/attacks/b.py"):
        (tmp_path / name).write_text("x = 2")
    clone = {Path(): tmp_path / "clone/bench", Path("attacks"): tmp_path / "clone/attacks"}
    monkeypatch.setattr(provenance, "sources", lambda: clone)
    digest = provenance.source_digest()
    monkeypatch.setattr(provenance, "sources", lambda: {Path(): tmp_path / "installed"})
    assert provenance.source_digest() == digest
    (tmp_path / "installed" / "attacks" / "b.py").write_text("x = 3")
    assert provenance.source_digest() != digest


def test_the_folders_of_the_code_are_all_known() -> None:
    assert provenance.sources() == {
        Path(): ROOT / "bench",
        **{Path(kind): ROOT / kind for kind in ("attacks", "defenses", "metrics")},
    }


def test_a_run_into_a_committed_folder_is_no_change_of_the_code(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
            check=True,
            capture_output=True,
        )

    for name in ("bench", "attacks", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    folders = {Path(): tmp_path / "bench", Path("attacks"): tmp_path / "attacks"}
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "sources", lambda: folders)
    clean = provenance.commit()
    assert len(clean) == 40
    (tmp_path / "results" / "file.py").write_text("2")
    assert provenance.commit() == clean
    (tmp_path / "attacks" / "file.py").write_text("2")
    assert provenance.commit() == clean + "+"
