"""What goes wrong in a long run, made to go wrong: kills, full disks, damaged files, diverging
training, too little memory."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import fcntl
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from methods import SCALE
from shifts import config, methods  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import StorageError, UserError
from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.report.metrics import COST
from t2i_backdoor_bench.running import workers as executors
from t2i_backdoor_bench.running.cell import last_line
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.atomic import sweep_partials
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

FORK = multiprocessing.get_context("fork")


def calls(tmp_path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def outcome(folder: Path) -> dict[str, object]:
    """All that a run gives, without what the clock says."""
    with (folder / "table.csv").open() as file:
        table = [{k: v for k, v in row.items() if k not in COST} for row in csv.DictReader(file)]
    return {
        "table.csv": table,
        "rows.csv": (folder / "rows.csv").read_text(),  # these metrics hold no cost
        "table.md": [
            line.rsplit("|", 2)[0] for line in (folder / "table.md").read_text().splitlines()
        ],  # the last column: seconds
        "table.tex": [
            line.rsplit("&", 1)[0] for line in (folder / "table.tex").read_text().splitlines()
        ],
        "grid.png": (folder / "grid.png").read_bytes(),
    }


def leftovers(folder: Path) -> list[str]:
    return [
        p.name for p in folder.rglob("*") if p.suffix in (".partial", ".lock") or p.name == "locks"
    ]


# -------------------------------------------------------------------------------------------- kills
def in_child(task) -> int | None:
    """Run `task` in a fork of this process, which has everything imported; its exit status
    (negative: the signal that ended it)."""

    def quiet() -> None:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            code = task()
        os._exit(code or 0)

    process = FORK.Process(target=quiet)
    process.start()
    process.join(900)
    return process.exitcode


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
    assert in_child(until(config, 0)) == 0
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


# --------------------------------------------------------------------------------------------- disk
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
    monkeypatch.setattr(executors.multiprocessing, "get_context", lambda kind: FORK)
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


# -------------------------------------------------------------------------------------------- flips
@pytest.mark.parametrize(
    "what", ["cell", "images", "before", "weights", "attack", "checksum", "plan"]
)
def test_a_flipped_byte_is_found_named_and_made_again(config, tmp_path, what, capsys) -> None:
    config = dataclasses.replace(config, attacks="shift_attack")
    assert runner.run(config) == 0
    before, plan_ = outcome(config.folder), plan(config)
    cell, attack = plan_.cells[1], plan_.attack_key("shift_attack", 0)
    path = (
        config.folder
        / {
            "cell": f"cells/{cell.key}.json",
            "images": f"samples/{cell.key}.safetensors",
            "before": f"samples/{plan_.before_key(0, '')}.safetensors",
            "weights": f"models/{attack}.safetensors",
            "attack": f"models/{attack}.json",
            "checksum": f"models/{attack}.safetensors.sha256",
            "plan": "run.json",
        }[what]
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    if what not in ("cell", "images", "plan"):  # what a cell that is stored needs no more
        for name in ("cells", "samples"):
            for file in (config.folder / name).glob(f"{cell.key}*"):
                file.unlink()
    (tmp_path / "calls").unlink()
    capsys.readouterr()
    assert runner.run(config) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    named = path.with_suffix("") if what == "checksum" else path
    assert len(said) == 1
    assert str(named) in said[0]
    after = outcome(config.folder)
    assert after == before
    made = {
        "weights": ["attack 0.5 0", "defense 0.25 0"],
        "images": ["defense 0.25 0"],
        "before": ["defense 0.25 0"],
    }
    made |= {"attack": made["weights"], "checksum": made["weights"]}
    assert calls(tmp_path) == made.get(what, [])
    capsys.readouterr()
    assert runner.run(config) == 0
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("what", ["maps", "maps before the attack", "prompts"])
def test_a_flipped_byte_in_what_only_the_report_shows_is_found_too(config, what, capsys) -> None:
    config = dataclasses.replace(
        config, attacks="shift_attack", defenses="none", attention_maps=True
    )
    assert runner.run(config) == 0
    (cell,) = plan(config).cells
    own, others = f"{cell.key}.safetensors", sorted((config.folder / "maps").glob("*.safetensors"))
    (before,) = (p for p in others if p.name != own)
    (prompts,) = (config.folder / "prompts").glob("*.json")
    path = {"maps": before.with_name(own), "maps before the attack": before, "prompts": prompts}[
        what
    ]
    whole, report = path.read_bytes(), (config.folder / "report.html").read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    capsys.readouterr()
    assert runner.run(config) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert len(said) == 1
    assert str(path) in said[0]
    assert path.read_bytes() == whole
    assert (config.folder / "report.html").read_bytes() == report


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10_000_000, 0])
def test_a_header_that_lies_about_its_size_is_a_damaged_file(tmp_path, size) -> None:
    """Also where somebody made the checksum fit."""
    said = []
    store = Store(tmp_path, said.append)
    path = store.write_file(
        "samples/a.safetensors",
        lambda partial: partial.write_bytes(size.to_bytes(8, "little") + b"{}" * 50),
    )
    assert store.read_arrays("samples/a") is None
    assert store.find_file("samples/a.safetensors") is None
    assert len(said) == 1
    assert str(path) in said[0]


def test_a_tensor_that_lies_about_its_size_is_a_damaged_file(tmp_path) -> None:
    said = []
    for i, (shape, ends) in enumerate(
        [
            ([10**9], [0, 10**9]),
            ([4], [0, 40]),
            ([2**40, 2**40], [0, 4]),
            ([4], [10**12, 10**12 + 4]),
        ]
    ):
        header = f'{{"x":{{"dtype":"U8","shape":{shape},"data_offsets":{ends}}}}}'.encode()
        store = Store(tmp_path, said.append)
        store.write_file(
            f"{i}.safetensors",
            lambda p, h=header: p.write_bytes(len(h).to_bytes(8, "little") + h + b"1234"),
        )
        assert store.read_arrays(str(i)) is None
        assert len(said) == i + 1


# ----------------------------------------------------------------------------------------- training
@pytest.mark.parametrize(("loss", "says"), [("nan", "the loss is nan"), ("huge", "the loss is ")])
def test_a_diverging_training_fails_its_cell_alone(config, loss, says) -> None:
    bad = dataclasses.replace(
        config,
        attacks="shift_attack",
        defenses="shift_back,shift_less,none",
        overrides=(f"shift_back.loss={loss}",),
    )
    assert runner.run(bad) == 1
    found = {r.cell.defense: r for r in stored_records(Store(bad.folder))}
    last = last_line(found["shift_back"].error)
    assert "TrainingDiverged" in last
    assert says in last
    assert "at step 3" in last
    assert "0.125" in last, "the learning rate"
    assert found["shift_less"].status == found["none"].status == "done"


def test_too_little_memory_for_training_fails_its_cell_alone(config) -> None:
    bad = dataclasses.replace(
        config,
        attacks="shift_attack",
        defenses="shift_back,none",
        overrides=("shift_back.loss=memory",),
    )
    assert runner.run(bad) == 1
    found = {r.cell.defense: r for r in stored_records(Store(bad.folder))}
    assert "out of memory" in last_line(found["shift_back"].error)
    assert found["none"].status == "done"


def test_checksums_are_of_the_whole_file(tmp_path) -> None:
    path = Store(tmp_path).write_file(
        "a.bin", lambda partial: partial.write_bytes(os.urandom(3 * 2**20 + 1))
    )
    whole = file_digest(path)
    for at in (0, 2**20, 3 * 2**20):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        assert file_digest(path) != whole
        data[at] ^= 1
        path.write_bytes(data)
    assert Store(tmp_path).find_file("a.bin") == path
