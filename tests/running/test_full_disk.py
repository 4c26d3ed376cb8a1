"""A full disk, a file that may not grow, and a folder without write permission: each is one line,
and what was finished stays."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fault_runs import FORK, calls, in_child, leftovers
from methods import SCALE
from shifts import config, methods  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench.contract import StorageError, UserError
from t2i_backdoor_bench.running import workers as executors
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.store.folder import Store


@pytest.mark.parametrize("what", ["safetensors", "text"])
def test_a_limit_of_the_kernel_is_one_line(tmp_path, what) -> None:
    """The real thing: the kernel refuses to let a file grow, to Python and to the Rust code of
    safetensors alike."""

    def task() -> int:
        store = Store(tmp_path)
        store.write_arrays("samples/small", {"x": np.zeros(10, np.uint8)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            if what == "text":
                store.write_record("large", "x" * 100_000)
            else:
                store.write_arrays("samples/large", {"x": np.zeros(100_000, np.uint8)})
        except StorageError as error:
            lines = str(error).splitlines()
            right = (
                len(lines) == 1
                and "File too large" in lines[0]
                and "large" in lines[0]
                and "free some space" in lines[0]
            )
            return (
                7 if right and store.read_arrays("samples/small") and not leftovers(tmp_path) else 8
            )
        return 9

    assert in_child(task) == 7


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_what_was_finished(
    config, tmp_path, tiny, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(SCALES, "smoke", SCALE)
    flags = [
        "--attacks",
        config.attacks,
        "--defenses",
        config.defenses,
        "--no-controls",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--metrics",
        config.metrics,
    ]
    flags += ["--workers", "1", "--out", str(config.folder)]
    real = os.fsync

    def full(handle: int) -> None:
        if list((config.folder / "cells").glob("*.json")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        assert run_bench.main(flags) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1
    assert "No space left on device; what was finished stays; free some space" in error[0]
    (finished,) = (config.folder / "cells").glob("*.json")
    before = finished.stat().st_mtime_ns
    assert leftovers(config.folder) == []
    assert run_bench.main(flags) == 0
    assert finished.stat().st_mtime_ns == before
    assert [c for c in calls(tmp_path) if c.startswith("attack 0.5")] == ["attack 0.5 0"]


def test_a_worker_that_finds_the_disk_full_ends_the_run(config, monkeypatch) -> None:
    sent, left = [], []

    def refuse(*args) -> None:
        raise StorageError("cannot write x: No space left on device; what was finished stays")

    def leave(code: int) -> None:
        left.append(code)

    with monkeypatch.context() as full:
        full.setattr(executors, "plan", refuse)
        full.setattr(os, "_exit", leave)
        executors.worker(
            config, None, [], 0, type("Events", (), {"send": staticmethod(sent.append)})
        )
    assert sent == [("fatal", "cannot write x: No space left on device; what was finished stays")]
    assert left == [2]
    monkeypatch.setattr(
        executors, "worker", lambda *args: args[4].send(("fatal", "the disk is full"))
    )
    monkeypatch.setattr(executors, "start_method", lambda device, threads: FORK)
    with pytest.raises(UserError, match="the disk is full"):
        executors.run_workers(
            plan(dataclasses.replace(config, workers=2)), None, [], Store(config.folder), Display()
        )


def test_a_read_only_folder_is_one_line(tmp_path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to become a user without rights")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = Store(Path(folder), lambda text: None)
        store.write_record("cells/a", 1)
        os.seteuid(65534)
        try:
            with pytest.raises(
                UserError,
                match=(
                    r"cannot write to the output folder.*Permission denied; choose another with"
                    r" --out"
                ),
            ):
                Store(Path(folder))
            with pytest.raises(
                StorageError,
                match=(
                    r"cells/b\.json: Permission denied; what was finished stays; make the folder"
                    r" writable"
                ),
            ):
                store.write_record("cells/b", 1)
            with pytest.raises(StorageError, match="Permission denied"), store.claim("cells/b"):
                pass
            with pytest.raises(StorageError, match="Permission denied"):
                store.drop_result("a")
            assert store.read_record("cells/a") == 1
        finally:
            os.seteuid(0)
