"""`clean`: what a run folder may lose. Afterwards nothing is wrong: `run` makes the same numbers,
`tables` and `verify` work, and records are as they were."""

from __future__ import annotations

import csv
import fcntl
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from fakes import CALLS, SCALE, change, config, fakes, records  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import StorageError, UserError
from t2i_backdoor_bench.report.metrics import COST
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.store import freeing
from t2i_backdoor_bench.store.folder import Store

KEPT = ("cells", "prompts", "sources")


def files(folder: Path, *rooms: str) -> dict[str, bytes]:
    found = [p for room in rooms for p in (folder / room).rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def parts(folder: Path) -> dict[str, freeing.Part]:
    return freeing.find_parts(freeing.open_ours(folder))


def numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in COST} for row in csv.DictReader(file)]


def leave_rubbish(folder: Path, attack: str, cell: str) -> None:
    """What kills and pictures of others leave in a folder."""
    for key in (attack, cell, "of_no_cell"):
        (folder / "training" / key).mkdir(parents=True)
        (folder / "training" / key / "1-x-5.safetensors").write_bytes(b"12345")
    (folder / "samples" / ".x.partial").write_bytes(b"123")
    (folder / "pictures.json").write_text("{}")


def test_it_lists_by_default_and_deletes_only_what_is_named(config, capsys) -> None:
    runner.run(change(config, attention_maps=True))
    (first, *_), folder = plan(config).cells, config.folder
    leave_rubbish(folder, plan(config).attack_key(first.attack, first.seed), first.key)
    before = files(folder, "")
    capsys.readouterr()
    assert runner.main(["clean", str(folder)]) == 0
    said = capsys.readouterr().out
    assert files(folder, "") == before, "nothing is deleted"
    found = parts(folder)
    assert all(f"  {kind} " in said for kind in freeing.KINDS)
    assert all(part.files for part in found.values())
    assert (found["checkpoints"].size, found["checkpoints"].needed) == (10, 1)
    weights = sum(p.stat().st_size for p in (folder / "models").glob("*.safetensors*"))
    assert found["weights"].size == weights
    assert f"{freeing.text_of(weights):>9}" in said
    assert runner.main(["clean", str(folder), "--delete", "weights,temporary"]) == 0
    assert "freed (weights, temporary)" in capsys.readouterr().out
    gone = before.keys() - files(folder, "").keys()
    assert gone == {n for n in before if n.startswith("models/") and ".safetensors" in n} | {
        "samples/.x.partial"
    }


def test_afterwards_everything_works_and_says_the_same(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)  # `verify` compares it
    runner.run(change(config, metrics="asr,kid"))
    first, kept = numbers(config.folder), files(config.folder, *KEPT)
    grid = (config.folder / "grid.png").read_bytes()
    assert runner.main(["clean", str(config.folder), "--delete", "all"]) == 0
    assert not any(part.files for part in parts(config.folder).values())
    assert not list(config.folder.rglob("*.safetensors"))
    assert files(config.folder, *KEPT) == kept
    assert runner.main(["tables", str(config.folder)]) == 0
    assert numbers(config.folder) == first
    assert (config.folder / "grid.png").read_bytes() == grid
    assert runner.main(["verify", str(config.folder)]) == 0
    CALLS.clear()
    assert runner.run(change(config, metrics="asr,kid")) == 0
    assert not CALLS, "the records are whole"
    assert runner.run(config) == 0, "a further metric needs the pictures"
    assert CALLS == ["attack 0", "defense -0.25 0"]
    whole = change(config, out=tmp_path / "whole")
    runner.run(whole)
    assert numbers(config.folder) == numbers(whole.folder)


def test_what_cells_that_are_left_will_need_stays(config) -> None:
    broken = change(
        config,
        attacks="fake_attack,fake_attack_two",
        defenses="none,fake_defense",
        overrides=("fake_defense.interrupt=true",),
    )
    assert runner.run(broken) == 130
    planned = plan(broken)
    key = planned.attack_key("fake_attack", 0)
    (done,) = [
        c.key for c in planned.cells if c.key in {r.cell.key for r in records(broken).values()}
    ]
    found = parts(config.folder)
    assert not found["weights"].files
    assert found["weights"].needed == 1
    assert {p.name.partition(".")[0] for p in found["pictures"].files} == {done}
    assert found["pictures"].needed > 0, "those of the clean model"
    freeing.delete(freeing.open_ours(config.folder), list(freeing.KINDS))
    assert Store(config.folder).find_file(f"models/{key}.safetensors") is not None
    CALLS.clear()
    assert runner.run(change(broken, overrides=())) == 0
    assert CALLS[:1] == ["defense -0.25 0"], "the attack is not trained again"


def test_kinds_are_named_rightly(config) -> None:
    assert freeing.chosen("pictures, weights") == ["weights", "pictures"]
    assert freeing.chosen("all") == list(freeing.KINDS)
    for text, says in (
        ("pictues", "did you mean pictures"),
        ("", "kinds: "),
        ("cells", "--delete"),
    ):
        with pytest.raises(UserError, match=says):
            freeing.chosen(text)


def test_a_folder_that_is_not_ours_is_left_alone(config, tmp_path, capsys) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "models").mkdir()
    (tmp_path / "own" / "models" / "mine.safetensors").write_bytes(b"1")
    (tmp_path / "own" / "run.json").write_text('{"payload": {}, "sha256": ""}')
    for folder in ("own", "nowhere"):
        assert runner.main(["clean", str(tmp_path / folder), "--delete", "all"]) == 2
        assert "error: " in capsys.readouterr().err
    assert (tmp_path / "own" / "models" / "mine.safetensors").exists()
    runner.run(change(config, defenses="none"))
    shutil.rmtree(config.folder / "samples")
    (config.folder / "samples").symlink_to(tmp_path / "own" / "models")
    with pytest.raises(StorageError, match="is a link"):
        freeing.delete(freeing.open_ours(config.folder), ["pictures"])
    assert (tmp_path / "own" / "models" / "mine.safetensors").exists()


def hold(folder: Path, how: str, ready, over) -> None:
    store = Store(folder)
    with store.working() if how == "run" else store.claim("cells/x"):
        ready.set()
        over.wait(60)


@pytest.mark.parametrize("how", ["run", "older program"])
def test_not_while_another_process_works_in_it(config, how: str) -> None:
    """One of an older version holds the locks of cells alone."""
    runner.run(change(config, defenses="none"))
    context = multiprocessing.get_context("fork")
    ready, over = context.Event(), context.Event()
    other = context.Process(target=hold, args=(config.folder, how, ready, over))
    other.start()
    assert ready.wait(60)
    try:
        with pytest.raises(UserError, match="another process works in"):
            freeing.delete(freeing.open_ours(config.folder), ["weights"])
        assert list(config.folder.glob("models/*.safetensors"))
    finally:
        over.set()
        other.join()
    assert freeing.delete(freeing.open_ours(config.folder), ["weights"]) > 0
    assert not (config.folder / "locks").exists()


def test_a_run_waits_while_the_folder_is_cleaned(config) -> None:
    """And several work side by side; a lock file that is dropped meanwhile is made anew."""
    config.folder.mkdir()
    store, other = Store(config.folder), Store(config.folder)
    with store.working(), other.working(), Store(config.folder).alone() as alone:
        assert not alone
    with store.alone() as alone:
        assert alone
        path = config.folder / "locks" / "folder.lock"
        with path.open("ab") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        other.drop_locks()
        assert path.exists(), "it is held"
    store.drop_locks()
    assert not (config.folder / "locks").exists()
    assert os.path.isdir(config.folder)


def test_sizes_are_read_by_people() -> None:
    assert [freeing.text_of(n) for n in (0, 999, 1000, 2_340_000, 5e9)] == [
        "0 bytes",
        "999 bytes",
        "1.0 KB",
        "2.3 MB",
        "5.0 GB",
    ]
