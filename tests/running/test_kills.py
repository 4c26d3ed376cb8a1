"""Runs that are killed at any moment: resumed, they give the run that was never killed."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import sys
from pathlib import Path

import numpy as np
from fault_runs import in_child, leftovers, outcome
from shifts import config, methods  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.atomic import sweep_partials
from t2i_backdoor_bench.store.folder import Store


def until(config: Config, step: int, count: Path | None = None):
    """A run that is killed (SIGKILL) at its `step`-th file operation in the run folder; with
    `count`, it writes how many there were."""

    def task() -> int:
        seen, root = 0, str(config.folder)

        def hook(event: str, args: tuple) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod") and str(
                args[0]
            ).startswith(root):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        status = runner.run(config)
        if count is not None:
            count.write_text(str(seen))
        return status

    return task


def test_killed_at_any_moment_and_resumed_gives_the_same_run(config, tmp_path) -> None:
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    assert in_child(until(whole, 0, tmp_path / "count")) == 0
    steps = int((tmp_path / "count").read_text())
    assert steps > 100
    (tmp_path / "calls").unlink()
    rng, finished = np.random.default_rng(7), {}
    for _ in range(4):
        assert (
            in_child(until(config, int(rng.integers(steps // 10, steps // 4)))) == -signal.SIGKILL
        )
        store = Store(config.folder, lambda text: None)
        for path in (config.folder / "cells").glob("*.json"):
            if store.read_result(path.stem) is not None:
                finished.setdefault(path, path.stat().st_mtime_ns)
    assert finished
    known = plan(config)
    (cell, *_), attack = known.cells, known.attack_key(known.cells[0].attack, 0)
    for key in (cell.key, attack):  # killed between a record and the end of its checkpoints
        (config.folder / "training" / key).mkdir(parents=True)
        (config.folder / "training" / key / "1-x-5.safetensors").write_bytes(b"")
    assert in_child(until(config, 0)) == 0
    assert not (config.folder / "training").exists()
    assert outcome(config.folder) == outcome(whole.folder)
    assert leftovers(config.folder) == []
    for path, time in finished.items():
        assert path.stat().st_mtime_ns == time, "a finished cell was made again"
    for folder in ("samples", "models"):
        names = sorted(p.name for p in (whole.folder / folder).iterdir())
        assert names == sorted(p.name for p in (config.folder / folder).iterdir())
    for cell in plan(config).cells:
        one, two = (Store(c.folder).read_arrays(f"samples/{cell.key}")[0] for c in (config, whole))
        assert all(np.array_equal(one[k], two[k]) for k in {*one, *two})


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path) -> None:
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    stale = folder / "samples" / ".a.safetensors.x1.partial"
    stale.write_bytes(b"half")
    living = folder / "samples" / ".b.safetensors.x2.partial"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Store(folder)
        assert not stale.exists()
        assert living.exists()
    Store(folder)
    assert not living.exists()


def test_a_file_is_safe_from_sweeps_while_it_is_written(tmp_path) -> None:
    store = Store(tmp_path)
    found = []

    def write(partial: Path) -> None:
        partial.write_bytes(b"whole")
        found.append(sweep_partials(tmp_path))

    store.write_file("a.bin", write)
    assert found == [0]
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
