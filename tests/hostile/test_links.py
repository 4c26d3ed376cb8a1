"""A run folder of others holds links, pipes and folders in wrong places: nothing outside of it is
read, written or deleted, and nothing waits."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT
from stranger import files_of, first_cell, no_figures, opened, stranger, tables_of  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import StorageError, UserError
from t2i_backdoor_bench.store.atomic import sweep_partials
from t2i_backdoor_bench.store.guard import FOLDERS, inside
from t2i_backdoor_bench.store.locks import Locks

SECRET = "a private line that nobody may read"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("poetry.lock", "notes.txt", "rates.png", "made.json", ".a.partial"):
        (folder / name).write_text(SECRET)
    return folder


WHERE = ["run.yaml", "report.html", "table.md", "run.json", "grid.png", ".x.partial", "extra.txt"]


@pytest.mark.parametrize("name", [*WHERE, *(f"{f}/x.json" for f in FOLDERS)])
def test_a_link_to_a_file_is_refused_and_nothing_is_read(stranger, mine, name) -> None:
    path = stranger / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(mine / "notes.txt")
    before, own = files_of(mine), files_of(stranger)
    status, out, err = tables_of(stranger)
    assert status == 2
    assert err.count("\n") == 1
    assert f"{path} is a link" in err
    assert SECRET not in out + err
    assert files_of(mine) == before
    assert files_of(stranger) == own, "refused before anything is written"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_to_a_folder_is_refused_and_nothing_is_written_or_deleted(
    stranger, mine, name
) -> None:
    if (stranger / name).exists():
        (stranger / name).rename(stranger.parent / name)
    (stranger / name).symlink_to(mine, target_is_directory=True)
    before = files_of(mine)
    status, _, err = tables_of(stranger)
    assert status == 2
    assert f"{stranger / name} is a link" in err
    for touch in (sweep_partials, lambda f: Locks(f / "locks").drop() if name == "locks" else None):
        with contextlib.suppress(StorageError):
            touch(stranger)
    assert files_of(mine) == before


def test_a_link_that_appears_later_is_not_followed_either(stranger, no_figures, mine) -> None:
    store = opened(stranger)
    before = files_of(mine)
    for name in ("plots", "locks", "cells"):
        if (stranger / name).exists():
            (stranger / name).rename(stranger.parent / f"old-{name}")
        (stranger / name).symlink_to(mine, target_is_directory=True)
    (stranger / "run.yaml").symlink_to(mine / "notes.txt")
    for touch in (
        lambda: store.path("run.yaml"),
        lambda: store.write_record("plots/made", {}),
        lambda: store.read_record("cells/made"),
        lambda: store.write_file("cells/rates.png", lambda p: p.write_text("x")),
        lambda: store.find_file("plots/rates.png"),
        lambda: store.drop_file("plots/rates.png"),
        lambda: store.drop_result("made"),
        lambda: store.damaged("plots/rates.png"),
        lambda: store.checksum("plots/rates.png"),
        lambda: store.all_results(),
        lambda: store.claim("cells/x").__enter__(),
        lambda: store.drop_locks(),
    ):
        with pytest.raises(StorageError, match="is a link"):
            touch()
    assert files_of(mine) == before


def test_pipes_sockets_and_folders_in_place_of_files(stranger, no_figures) -> None:
    """Opening a pipe would wait for ever."""
    cell = first_cell(stranger)
    for name in ("run.yaml", ".x.partial", f"cells/{cell.name}", "locks/a.lock"):
        path = stranger / name
        path.parent.mkdir(exist_ok=True)
        old = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        status, _, err = tables_of(stranger)
        assert (status, err.count("\n")) == (2, 1)
        assert f"{path} is no plain file" in err
        path.unlink()
        if old is not None:
            path.write_bytes(old)
    with socket.socket(socket.AF_UNIX) as found:
        os.chdir(stranger)
        found.bind("grid.png")
        os.chdir(ROOT)
        assert "is no plain file" in tables_of(stranger)[2]
    (stranger / "grid.png").unlink()
    cell.unlink()
    cell.mkdir()
    (stranger / "run.yaml").mkdir()
    status, _, err = tables_of(stranger)
    assert status == 0
    assert f"{cell} is damaged" in err


@pytest.mark.parametrize("name", ["table.md", "report.html", "matrix.md", "plots/made.json"])
def test_a_folder_where_a_file_is_written_is_one_line(stranger, name) -> None:
    (stranger / name).mkdir(parents=True)
    (stranger / name / "kept").write_text("x")
    status, _, err = tables_of(stranger)
    assert status == 2
    assert f"cannot write {stranger / name}" in err.splitlines()[-1]
    assert (stranger / name / "kept").read_text() == "x"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "cells/../../x", "", "a\0b", "secrets/x"])
def test_names_lead_nowhere_else(stranger, no_figures, name) -> None:
    with pytest.raises(UserError):
        inside(stranger, name)


def test_folders_that_are_not_of_a_run_are_left_alone(stranger, no_figures, mine) -> None:
    """`--out .` in a project: its folders are neither looked into nor swept."""
    (stranger / "venv" / "bin").mkdir(parents=True)
    (stranger / "venv" / "bin" / "python").symlink_to(sys.executable)
    (stranger / "venv" / ".a.partial").write_text("of somebody else")
    (stranger / "linked").symlink_to(mine, target_is_directory=True)
    before = files_of(mine)
    assert tables_of(stranger)[0] == 0
    assert (stranger / "venv" / ".a.partial").is_file()
    assert files_of(mine) == before


def test_no_module_but_the_store_joins_names_to_a_run_folder() -> None:
    found = subprocess.run(
        ["grep", "-rnE", r"store\.root\s*/", "bench", "attacks", "defenses", "metrics"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert not [line for line in found if "store.say" not in line], found
