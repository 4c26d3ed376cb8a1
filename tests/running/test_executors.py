"""Workers: several processes on one run folder give the numbers of one, and what a worker that dies
had begun is made by the others."""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.models import catalog as bases
from t2i_backdoor_bench.report.metrics import COST
from t2i_backdoor_bench.running import cell as cells
from t2i_backdoor_bench.running import devices, fork_server
from t2i_backdoor_bench.running import workers as executors
from t2i_backdoor_bench.running.attacked import reserved
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 0.5, (0,))
PLUGIN = """
import dataclasses, os, pathlib, signal, time
from dataclasses import dataclass
import numpy as np, torch
from t2i_backdoor_bench.models import catalog as bases
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.contract import Attack, Backdoor, Defense, Target, Trigger
from t2i_backdoor_bench.contract import register_attack, register_defense

bases.BASES["tiny"] = bases.Base({base!r}, "shapes", Sampler(2, 2.0), 16, {scorer!r})

@register_attack("shift_attack")
@register_attack("shift_more", preset={{"shift": 1.0}})
@dataclass
class Shift(Attack):
    shift: float = 0.5

    def backdoor(self, model):
        return Backdoor(Trigger("mignneko"), Target("patch", patch=np.zeros((8, 8, 3), np.uint8)))

    def inject(self, model, data, seed):
        with (pathlib.Path({folder!r}) / "trained").open("a") as file:
            file.write(f"{{self.shift}}\\n")
        attacked = model.clone()
        with torch.no_grad():
            attacked.denoiser.conv_out.bias += self.shift
        return attacked

@register_defense("shift_back")
@register_defense("dies_once", preset={{"die": True}})
@register_defense("sleeps", preset={{"sleep": 600}})
@dataclass
class Back(Defense):
    die: bool = False
    sleep: int = 0

    def apply(self, model, view, seed):
        if self.sleep:
            (pathlib.Path({folder!r}) / f"sleeper-{{os.getpid()}}").touch()
            time.sleep(self.sleep)
        mark = pathlib.Path({folder!r}) / "died"
        if self.die and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        repaired = model.clone()
        with torch.no_grad():
            repaired.denoiser.conv_out.bias -= 0.25
        return repaired
"""


@pytest.fixture
def plugin(tmp_path, tiny, tiny_base, tiny_scorer, clean_registry, monkeypatch) -> Path:
    """An installed third-party package with methods and a base: what worker processes find by
    themselves."""
    folder = tmp_path / "plugin"
    info = folder / "shift_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "shift_plugin.py").write_text(
        PLUGIN.format(base=str(tiny_base), scorer=str(tiny_scorer), folder=str(tmp_path))
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shift-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[t2i_backdoor_bench.attacks]\nshift = shift_plugin\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(bases, "BASES", dict(bases.BASES))
    __import__("shift_plugin")
    yield folder
    sys.modules.pop("shift_plugin")


@pytest.fixture
def config(plugin, tmp_path) -> Config:
    return Config(
        "shift_attack,shift_more",
        "none,shift_back",
        "tiny",
        SCALE,
        metrics="asr,kid,drift",
        out=tmp_path / "run",
        workers=2,
    )


def numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in COST} for row in csv.DictReader(file)]


def test_two_workers_make_what_one_makes(config, tmp_path, capsys) -> None:
    assert runner.run(config) == 0
    assert sorted((tmp_path / "trained").read_text().split()) == ["0.5", "1.0"], (
        "each attack is trained once"
    )
    one = dataclasses.replace(config, workers=1, out=tmp_path / "one")
    assert runner.run(one) == 0
    assert len(numbers(config.folder)) == 4
    assert numbers(config.folder) == numbers(one.folder)
    assert not list(config.folder.rglob("*.lock"))
    assert not list(config.folder.rglob("*.partial"))


def test_a_worker_that_is_killed_is_replaced_and_its_cell_made(config, tmp_path, capsys) -> None:
    config = dataclasses.replace(config, attacks="shift_attack", defenses="none,dies_once")
    assert runner.run(config) == 0
    assert (tmp_path / "died").exists()
    assert (
        "a worker died (exit status -9) at shift_attack x dies_once, seed 0: defend; another takes"
        " over" in capsys.readouterr().err
    )
    assert {row["status"] for row in numbers(config.folder)} == {"done"}


def until(what, seconds: float = 300) -> None:
    """Wait for what must come true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGTERM, marks=pytest.mark.thorough), signal.SIGKILL]
)
def test_workers_end_with_the_process_that_started_them(config, tmp_path, how) -> None:
    """In the middle of a cell, long before they would report; their locks are free for the next
    command."""
    config = dataclasses.replace(config, defenses="sleeps")

    def run() -> None:
        forkserver._forkserver.__init__()  # the one of the process that forked is not ours
        fork_server._begun.clear()
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
            runner.run(config, show=False)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    until(lambda: len(list(tmp_path.glob("sleeper-*"))) == 2 or not process.is_alive())
    asleep = [int(path.name.removeprefix("sleeper-")) for path in tmp_path.glob("sleeper-*")]
    assert len(asleep) == 2
    os.kill(process.pid, how)
    process.join(30)
    assert process.exitcode == -how
    until(lambda: not any(alive(pid) for pid in asleep), 20)
    store = Store(config.folder)

    def free(key: str) -> bool:
        with store.claim(f"cells/{key}") as mine:
            return mine

    for cell in plan(
        config
    ).cells:  # a killed process holds its locks until the last of its threads is gone
        until(lambda key=cell.key: free(key), 20)


def test_workers_take_the_gpus_in_turn(config, monkeypatch) -> None:
    """Each sees one GPU alone, and who replaces it has the same."""
    context = multiprocessing.get_context("fork")
    seen = context.SimpleQueue()
    died = context.Value("i", 0)

    def fake(*args) -> None:
        seen.put(os.environ["CUDA_VISIBLE_DEVICES"])
        if os.environ["CUDA_VISIBLE_DEVICES"] == "7" and not died.value:
            died.value = 1
            os._exit(1)

    monkeypatch.setattr(executors, "worker", fake)
    monkeypatch.setattr(executors, "start_method", lambda device, threads: context)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 7")
    plan_ = plan(dataclasses.replace(config, workers=3))
    on_gpu = dataclasses.replace(plan_, config=dataclasses.replace(plan_.config, device="cuda"))
    executors.run_workers(on_gpu, None, [], Store(config.folder), Display())
    assert sorted(seen.get() for _ in range(4)) == ["3", "3", "7", "7"]
    assert seen.empty()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3, 7"
    assert devices.gpus_of("cuda:1") == devices.gpus_of("cpu") == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.gpus_of("cuda") == ["0", "1"]


def test_what_another_process_makes_is_left_to_it(config, monkeypatch) -> None:
    """While somebody else holds a cell, the others are made; then its turn comes, or it is found
    made."""
    plan_ = plan(dataclasses.replace(config, workers=1))
    store = Store(config.folder)
    shared, made = Shared(plan_, store, Display()), []
    done = {c.key: threading.Event() for c in plan_.cells}

    def make(shared, cell) -> None:
        made.append(cell.key)
        done[cell.key].set()

    held = plan_.cells[1].key
    with Store(config.folder).claim(f"cells/{held}") as mine:
        assert mine
        monkeypatch.setattr(cells, "make_cell", make)
        monkeypatch.setattr(cells, "settled", lambda plan_, store, cell: done[cell.key].is_set())
        thread = threading.Thread(target=cells.make_unsettled, args=(shared, plan_.cells))
        thread.start()
        assert all(done[c.key].wait(60) for c in plan_.cells if c.key != held)
        thread.join(1.5)
        assert thread.is_alive(), "it waits for the cell of the other"
        assert held not in made
    thread.join(60)
    assert made[-1] == held
    assert sorted(made) == sorted(c.key for c in plan_.cells)


def test_an_attack_that_another_process_trains_is_not_waited_for(config) -> None:
    plan_ = plan(config)
    shared = Shared(plan_, Store(config.folder), Display())
    first = plan_.cells[0].attack

    def another() -> Shared:
        return Shared(plan_, Store(config.folder), Display())

    with reserved(shared, first, 0) as free:
        assert free
        with reserved(another(), first, 0) as other:
            assert not other, "one of two trains it"
        with shared.store.claim(f"models/{plan_.attack_key(first, 0)}", wait=True) as own:
            assert own, "who has reserved it need not wait for itself"
        with reserved(another(), "shift_more", 0) as other:
            assert other
    with reserved(another(), first, 0) as other:
        assert other


def test_how_many_workers(monkeypatch) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(
        devices.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * 2**30})
    )
    small = Config(device="cpu")
    assert devices.share(small, "shapes", 20) == (8, 1)
    assert devices.share(small, "shapes", 3) == (3, 1)
    assert devices.share(dataclasses.replace(small, threads=4), "shapes", 20) == (2, 4)
    assert devices.share(dataclasses.replace(small, workers=3), "shapes", 20) == (3, 1)
    assert devices.share(dataclasses.replace(small, device="cuda"), "shapes", 20) == (1, None)
    assert devices.share(small, "sd", 20) == (1, None)
    monkeypatch.delattr(devices.os, "sched_getaffinity")  # there is none on macOS
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 4)
    assert devices.share(small, "shapes", 20) == (4, 1)
    monkeypatch.setattr(
        devices.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5 * 2**30})
    )
    assert devices.share(small, "shapes", 20) == (2, 1)
