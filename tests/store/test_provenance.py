"""Where rows come from, warnings where they differ, and a stored cell that is made again to see
whether it is what it says."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from methods import SCALE, Back, Shift
from safetensors.numpy import load_file, save_file

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.contract.hashing import digest, file_digest
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.formats import terminal
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.verify import leaves
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
def record(seed: int, *codes: dict, status: str = "done"):
    scores = {"asr": Score(0.5, 0.4, 0.6, 10, "net")}
    origin = {"provenance": {"codes": list(codes), "judge": "patch rule"}} if codes else {}
    result = Record(
        Cell("b", "a", "d", seed, f"k{seed}"), status, scores if status == "done" else {}
    )
    return (
        result,
        {"directions": {"asr": {"better": "lower", "percent": True}}, "protocol": {}} | origin,
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


def test_rows_of_a_run_say_where_they_come_from(config) -> None:
    assert runner.run(config) == 0
    with (config.folder / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    plan_, here = plan(config), provenance.running_code()
    assert {r["base_hash"] for r in rows} == {plan_.shared["base"]["weights"][:16]}
    assert {r["attack_hash"] for r in rows} == {plan_.attack_key("shift_attack", 0)[:16]}
    assert {r["commit"] for r in rows} == {here["commit"][:12] or "unknown"}
    assert {r["dirty"] for r in rows} == {"yes" if here["dirty"] else "no"}
    assert all(f"torch={here['versions']['torch']}" in r["versions"] for r in rows)
    assert {r["judge"] for r in rows} == {"patch rule"}
    assert {r["seed"] for r in rows} == {"0"}
    assert {r["network"] for r in rows if r["metric"] == "kid"} == {"tiny-scorer"}
    _, extra = Store(config.folder).read_result(plan_.cells[0].key)
    found = extra["provenance"]
    assert found["attack_weights"] == file_digest(
        config.folder / "models" / f"{found['attack']}.safetensors"
    )
    assert found["networks"]["kid"] == "tiny-scorer"
    assert found["codes"] == [here]


def test_a_completed_cell_keeps_the_code_that_began_it(config, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "here", lambda: CODE)
    assert runner.run(dataclasses.replace(config, metrics="asr")) == 0
    monkeypatch.setattr(provenance, "here", lambda: OTHER)
    assert runner.run(config) == 0
    for result, extra in stored_records(Store(config.folder)):
        assert set(result.scores) == {"asr", "kid"}
        assert extra["provenance"]["codes"] == [CODE, OTHER]
    assert "different code" in (config.folder / "table.md").read_text()


def test_records_of_before_stay_readable_and_are_not_made_again(config) -> None:
    assert runner.run(config) == 0
    store = Store(config.folder)
    for path in (config.folder / "cells").iterdir():
        payload = store.read_record(f"cells/{path.stem}")
        del payload["extra"]["provenance"]
        store.write_record(f"cells/{path.stem}", payload)
    times = {p: p.stat().st_mtime_ns for p in (config.folder / "cells").iterdir()}
    assert runner.run(config) == 0
    assert times == {p: p.stat().st_mtime_ns for p in (config.folder / "cells").iterdir()}
    with (config.folder / "rows.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["commit"] == row["versions"] == ""
    assert row["base_hash"]
    assert row["attack_hash"]


def test_the_published_records_are_readable() -> None:
    store = Store(ROOT / "results" / "reference")
    assert all(r.status == "done" for r, _ in store.all_results())
    assert len(tables.long_rows(store.all_results())) > 100


def test_the_source_digest_sees_a_changed_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.py").write_text("x = 1")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    first = provenance.source_digest()
    (tmp_path / "bench" / "notes.md").write_text("words")
    assert provenance.source_digest() == first
    (tmp_path / "bench" / "a.py").write_text("x = 2")
    assert provenance.source_digest() != first
    assert provenance.commit() == "", "no checkout"


# ------------------------------------------------------------------------------------------- verify
@pytest.fixture
def config(tmp_path, tiny, clean_registry):
    clean_registry.register_attack("shift_attack")(Shift)
    clean_registry.register_defense("shift_back", needs=("trigger",))(Back)
    return Config(
        "shift_attack",
        "none,shift_back",
        tiny,
        SCALE,
        metrics="asr,kid",
        out=tmp_path / "run",
        workers=1,
    )


def verify(config, capsys) -> tuple[int, str]:
    capsys.readouterr()
    status = run_bench.main(["--verify", str(config.folder)])
    return status, capsys.readouterr().out


def forge(folder: Path, key: str, change) -> None:
    """Change a stored record and make its checksum fit."""
    path = folder / "cells" / f"{key}.json"
    payload = json.loads(path.read_text())["payload"]
    change(payload)
    path.write_text(json.dumps({"sha256": digest(payload), "payload": payload}))


def test_a_run_verifies_and_forgeries_do_not(config, capsys) -> None:
    one = dataclasses.replace(config, defenses="shift_back")
    assert runner.run(one) == 0
    before = {p: p.read_bytes() for p in one.folder.rglob("*") if p.is_file()}
    status, out = verify(one, capsys)
    assert status == 0, out
    assert "made again, has the same 2 scores and " in out
    assert before == {p: p.read_bytes() for p in one.folder.rglob("*") if p.is_file()}, (
        "the folder stays as it is"
    )
    key = plan(one).cells[0].key

    def better(payload: dict) -> None:
        payload["scores"]["kid"]["value"] = 0.0

    forge(one.folder, key, better)
    status, out = verify(one, capsys)
    assert status == 1
    assert "kid: stored 0.0" in out
    assert "table.csv is not what the records give" in out
    assert rebuild(one.folder) == 0
    status, out = verify(one, capsys)
    assert status == 1
    assert "table.csv" not in out
    assert "kid: stored 0.0" in out
    assert "asr" not in out


def test_changed_images_and_tables_do_not_verify(config, capsys) -> None:
    one = dataclasses.replace(config, defenses="none")
    assert runner.run(one) == 0
    path = one.folder / "samples" / f"{plan(one).cells[0].key}.safetensors"
    arrays = load_file(path)
    arrays["triggered"][1] ^= 1
    save_file(arrays, path, metadata={"meta": json.dumps({"shown": {}})})
    path.with_name(path.name + ".sha256").write_text(file_digest(path))
    table = one.folder / "table.csv"
    table.write_text(table.read_text().replace("shift_attack", "shift_attack2"))
    (one.folder / "leaderboard.md").write_text("# Leaderboard\n\n1. mine\n")
    status, out = verify(one, capsys)
    assert status == 1
    assert "images of triggered: 1 of 4 differ, by at most 1 of 255" in out
    assert "table.csv is not what the records give" in out
    assert "leaderboard.md is not what the records give" in out


def test_another_configuration_does_not_verify(config, capsys, clean_registry) -> None:
    one = dataclasses.replace(config, defenses="shift_back", overrides=("shift_back.shift=0.5",))
    assert runner.run(one) == 0
    assert verify(one, capsys)[0] == 0, "options of the run are in run.json"
    clean_registry.defenses.entries.pop("shift_back")
    clean_registry.register_defense("shift_back", needs=("trigger",))(
        dataclasses.make_dataclass("Back", [("more", int, 3)], bases=(Back,))
    )
    status, out = verify(one, capsys)
    assert status == 1
    assert "defense.0.options.more: stored nothing, now 3" in out


def test_a_cell_that_fails_now_does_not_verify(config, capsys, monkeypatch) -> None:
    one = dataclasses.replace(config, defenses="shift_back")
    assert runner.run(one) == 0

    def broken(self, model, view, seed):
        raise RuntimeError("it broke")

    monkeypatch.setattr(Back, "apply", broken)
    status, out = verify(one, capsys)
    assert status == 1
    assert "it fails now: RuntimeError: it broke" in out


def test_verify_says_what_may_be_why(config, capsys, monkeypatch) -> None:
    one = dataclasses.replace(config, defenses="none")
    with monkeypatch.context() as past:
        past.setattr(provenance, "here", lambda: OTHER)
        assert runner.run(one) == 0
    forge(
        one.folder,
        plan(one).cells[0].key,
        lambda payload: payload["scores"]["asr"].update(value=0.123),
    )
    status, out = verify(one, capsys)
    assert status == 1
    assert "made by other code (commit bbbbbbbbb; here " in out
    assert f"made with torch 2.4.1 (here {provenance.running_code()['versions']['torch']})" in out


def test_what_cannot_be_verified_is_one_line(tmp_path, capsys) -> None:
    assert run_bench.main(["--verify", str(tmp_path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_bench.main(["--verify", str(tmp_path / "empty")]) == 2
    assert "nothing to verify" in capsys.readouterr().err
    assert leaves({"a": [1, {"b": 2}], "c": {}}) == {"a.0": 1, "a.1.b": 2}


# -------------------------------------------------------------------------------- folders of others
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        blocked = "torch diffusers transformers torchvision open_clip torchmetrics accelerate"
        if name.split(".")[0] in blocked.split():
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import run_bench
sys.exit(run_bench.main(["--tables-only", "--out", sys.argv[1]]))
"""


def test_a_copied_run_is_complete_and_its_tables_need_no_torch(config, tmp_path) -> None:
    swept = dataclasses.replace(config, sweeps=("shift_back.shift=0.25,0.5",), attention_maps=True)
    assert runner.run(swept) == 0
    copy = shutil.copytree(swept.folder, tmp_path / "elsewhere" / "copy")
    made = [p for p in copy.iterdir() if p.is_file() and p.name not in ("run.json", "run.yaml")]
    assert {p.suffix for p in made} >= {".csv", ".md", ".tex", ".png"}
    assert {"grid.png", "attention-shift_attack.png", "sweep-shift_back.shift.png"} <= {
        p.name for p in made
    }
    for path in made:
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(copy)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in made} == {
        p.name: (swept.folder / p.name).read_bytes() for p in made
    }


def test_names_in_a_run_folder_of_others_lead_nowhere_else(config, tmp_path, capsys) -> None:
    runner.run(dataclasses.replace(config, attention_maps=True, defenses="none"))
    store = Store(config.folder)
    manifest = store.read_record("run")
    for name in ("../../evil", "x/../../evil", "/tmp/evil", "\x1b[2J", "$(touch evil)"):
        manifest["cells"][0]["attack"] = name
        store.write_record("run", manifest)
        before = {p for p in tmp_path.rglob("*") if config.folder not in p.parents}
        assert rebuild(config.folder) == 0
        assert {p for p in tmp_path.rglob("*") if config.folder not in p.parents} == before
        assert all(p.parent == config.folder for p in config.folder.rglob("attention*"))
        assert "\x1b" not in capsys.readouterr().out
    manifest["cells"][0]["key"] = "../../secret"
    store.write_record("run", manifest)
    assert run_bench.main(["--tables-only", "--out", str(config.folder)]) == 2
    assert "outside of it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["scores"]["asr"].update(value="0.0"),
        lambda p: p["scores"].update(asr=[1]),
        lambda p: p["cell"].pop("attack"),
        lambda p: p["cell"].update(defense={"a": 1}),
        lambda p: p.update(surprise=1),
        lambda p: p.update(scores=None),
    ],
)
def test_a_record_that_is_none_is_damaged_whatever_its_checksum_says(
    config, change, capsys
) -> None:
    one = dataclasses.replace(config, defenses="none")
    assert runner.run(one) == 0
    before = [line.rsplit("|", 2)[0] for line in (one.folder / "table.md").read_text().splitlines()]
    forge(one.folder, plan(one).cells[0].key, change)
    capsys.readouterr()
    assert runner.run(one) == 0
    assert "is no record of a cell" in capsys.readouterr().err
    assert [
        line.rsplit("|", 2)[0] for line in (one.folder / "table.md").read_text().splitlines()
    ] == before


@pytest.mark.parametrize(
    "change",
    [lambda m: m.pop("cells"), lambda m: m.update(cells=[1]), lambda m: m.update(needs=[])],
)
def test_a_manifest_that_is_none_leaves_the_records(config, change, capsys) -> None:
    one = dataclasses.replace(config, defenses="none")
    assert runner.run(one) == 0
    store = Store(one.folder)
    manifest = store.read_record("run")
    change(manifest)
    store.write_record("run", manifest)
    assert rebuild(one.folder) == 0
    assert "all records of the folder are shown" in capsys.readouterr().err


def test_texts_that_no_file_could_hold_are_stored_as_codes(tmp_path) -> None:
    store = Store(tmp_path)
    store.write_record("a", {"caption": "half \ud800 of a pair", "whole": "\U0001f525"})
    assert store.read_record("a") == {"caption": "half \\ud800 of a pair", "whole": "\U0001f525"}


def test_captions_of_any_kind_are_drawn(tmp_path) -> None:
    from t2i_backdoor_bench.report.figures.picture_grid import draw

    tiles = {"attacked": np.zeros((3, 8, 8, 3), np.uint8)}
    image = draw(
        ["attacked"], [("a\nb", ["two\nlines", "\x1b[2J", "\u202eturned \U0001f525 $x$ "], tiles)]
    )
    assert image.size[0] > 100


def test_a_run_into_a_committed_folder_is_no_change_of_the_code(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
            check=True,
            capture_output=True,
        )

    for name in (*provenance.SOURCES, "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    clean = provenance.commit()
    assert len(clean) == 40
    (tmp_path / "results" / "file.py").write_text("2")
    assert provenance.commit() == clean
    (tmp_path / "bench" / "file.py").write_text("2")
    assert provenance.commit() == clean + "+"
