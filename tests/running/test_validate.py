"""`validate`: what a run would make, need and refuse, without making anything."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
from fakes import CALLS, change, config, fakes, forbid_drawing  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running import disk
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.validate import REFUSED, validate
from t2i_backdoor_bench.store.folder import Store


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_run_is_counted_and_nothing_is_made(config, monkeypatch, capsys) -> None:
    forbid_drawing(monkeypatch)
    assert validate(config) == 0
    out = capsys.readouterr().out
    assert "2 cells: 0 are stored, 2 are to be made" in out
    assert "estimate, all 2 cells: " in out
    assert "disk: about " in out
    assert out.splitlines()[-1] == "valid"
    assert not CALLS
    assert not config.folder.exists()


def test_what_is_stored_is_found_and_the_folder_stays_as_it_is(config, capsys) -> None:
    runner.run(change(config, defenses="none"))
    before = files(config.folder)
    capsys.readouterr()
    assert validate(config) == 0
    out = capsys.readouterr().out
    assert "2 cells: 1 are stored, 1 are to be made" in out
    assert "measured: 1 cells were made here in" in out
    assert validate(change(config, defenses="none")) == 0
    assert "1 cells: 1 are stored, 0 are to be made" in capsys.readouterr().out
    assert validate(change(config, fresh=True)) == 0
    assert "2 cells: 0 are stored, 2 are to be made" in capsys.readouterr().out
    assert validate(change(config, defenses="none", metrics="asr,drift")) == 0
    assert "1 are to be made (1 of them lack metrics" in capsys.readouterr().out
    assert files(config.folder) == before


def test_each_reason_is_said_with_its_cells_and_the_others_stay_valid(config, capsys) -> None:
    bad = change(
        config,
        attacks="fake_attack,fake_attack_two",
        overrides=("fake_attack_two.trigger=" + "long " * 60,),
    )
    assert validate(bad) == REFUSED
    out = capsys.readouterr().out
    (line,) = [text for text in out.splitlines() if text.startswith("refused, ")]
    assert line.startswith("refused, fake_attack_two/none/0, fake_attack_two/fake_defense/0: ")
    assert "truncated" in line
    assert out.splitlines()[-1] == "not valid: mend what is refused"
    with pytest.raises(UserError, match="truncated"):
        preflight(Shared(plan(bad), Store(bad.folder), Display()), plan(bad).cells)


def test_what_refuses_the_whole_run_is_one_line(config, tmp_path, tiny, capsys) -> None:
    flags = ["--base", tiny, "--attacks", "fake_atack", "--out", str(tmp_path / "x")]
    assert runner.main(["validate", *flags]) == REFUSED
    assert "did you mean fake_attack" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    for out in ("file", "file/run"):
        with pytest.raises(UserError, match=r"cannot write .*/file is no folder"):
            validate(change(config, out=tmp_path / out))


def test_a_full_disk_is_not_valid(config, monkeypatch, capsys) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(1, 1, 0))
    assert validate(config) == REFUSED
    assert "refused: the disk is too small" in capsys.readouterr().out


def test_the_disk_is_counted_as_it_is_written(config) -> None:
    """What a run writes is what was counted: pictures and weights, but for headers and answers."""
    planned = plan(config)
    shared = Shared(planned, Store(config.folder), Display())
    shared.load()
    counted = disk.disk_of(shared, planned.cells)
    runner.run(config)
    sizes = {
        room: sum(p.stat().st_size for p in (config.folder / room).glob("*.safetensors"))
        for room in ("samples", "models")
    }
    assert counted.pictures == pytest.approx(sizes["samples"], rel=0.15)
    assert counted.weights == pytest.approx(sizes["models"], rel=0.15)
    again = Shared(planned, Store(config.folder), Display())
    again.load()
    left = disk.disk_of(again, planned.cells)
    assert (left.weights, left.saved) == (0, 0)
