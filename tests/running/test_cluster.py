"""Cells as Ray tasks: the numbers of one process, the cell of a lost worker made again, and one
line for what cannot be."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from test_executors import config, numbers, plugin  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Cell, UserError
from t2i_backdoor_bench.running import devices, settings
from t2i_backdoor_bench.running import ray_tasks as cluster
from t2i_backdoor_bench.running import workers as executors
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store


def test_two_workers_one_of_them_killed_make_what_one_process_makes(
    config, plugin, tmp_path, monkeypatch, capsys
) -> None:
    """The real thing: a Ray of two CPUs on this machine; the first worker that defends kills itself
    (SIGKILL)."""
    ray = pytest.importorskip("ray", reason="the optional package ray is not installed")
    assert not ray.is_initialized()
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")])
    )
    config = dataclasses.replace(config, defenses="none,dies_once", executor="ray", threads=1)
    try:
        assert runner.run(config) == 0
    except UserError as error:
        if "timed out during startup" not in str(error):
            raise
        pytest.skip(f"this machine is too busy: {error}")
    said = capsys.readouterr().err
    assert (tmp_path / "died").exists()
    assert "a task was lost (WorkerCrashedError) at shift_" in said
    assert "x dies_once, seed 0: defend; it is tried again" in said
    assert sorted((tmp_path / "trained").read_text().split()) == ["0.5", "1.0"], (
        "each attack is trained once"
    )
    assert not ray.is_initialized(), "what was started here is gone"
    one = dataclasses.replace(config, executor="local", workers=1, out=tmp_path / "one")
    assert runner.run(one) == 0
    assert len(numbers(config.folder)) == 4
    assert numbers(config.folder) == numbers(one.folder)
    assert not list(config.folder.rglob("*.lock"))
    assert not list(config.folder.rglob("*.partial"))


# ------------------------------------------------------------- the driver, on a Ray of this process
class Lost(Exception):
    """What Ray raises for a task that is gone."""


class Ray(ModuleType):
    """Tasks that `outcome(key, attempt)` decides: text that ends the run ("" for none), or an
    exception."""

    def __init__(self, outcome) -> None:
        super().__init__("ray")
        self.outcome, self.started, self.most, self.cancelled, self.room = outcome, [], 0, [], None
        self.running: list[tuple[str, int]] = []
        self.exceptions = SimpleNamespace(
            RayError=Lost, RayTaskError=type("RayTaskError", (Lost,), {})
        )

    def is_initialized(self) -> bool:
        return True  # a connection that is there already

    def put(self, value):
        return value

    def remote(self, **room):
        self.room = room
        return lambda function: SimpleNamespace(remote=self.start)

    def start(self, asked, data, key, *rest):
        ref = (key, self.started.count(key) + 1)
        self.started.append(key)
        self.running.append(ref)
        self.most = max(self.most, len(self.running))
        return ref

    def wait(self, refs, timeout):
        return refs[:1], refs[1:]

    def get(self, ref):
        self.running.remove(ref)
        found = self.outcome(*ref)
        if isinstance(found, BaseException):
            raise found
        return found

    def cancel(self, ref, force):
        self.cancelled.append(ref)


class Quiet:
    """A queue of events that is empty."""

    def __init__(self, actor_options) -> None:
        self.put = None

    def qsize(self) -> int:
        return 0

    def get_nowait_batch(self, n: int) -> list:
        return []

    def shutdown(self, force: bool) -> None:
        pass


@pytest.fixture
def drive(config, monkeypatch):
    def run(outcome, **more) -> tuple[Ray, list[str], list[Cell]]:
        ray, queue = Ray(outcome), ModuleType("ray.util.queue")
        queue.Queue = Quiet
        for name, module in (
            ("ray", ray),
            ("ray.util", ModuleType("ray.util")),
            ("ray.util.queue", queue),
        ):
            monkeypatch.setitem(sys.modules, name, module)
        plan_ = plan(dataclasses.replace(config, executor="ray", **more))
        display = Display()
        said: list[str] = []
        display.say = said.append
        try:
            cluster.run_tasks(plan_, None, plan_.cells, Store(config.folder), display)
        finally:
            run.ray = ray
        return ray, said, plan_.cells

    return run


def test_every_cell_is_a_task_and_no_more_run_than_are_asked_for(drive) -> None:
    ray, said, cells = drive(lambda key, attempt: "", workers=2, threads=3)
    assert sorted(ray.started) == sorted(c.key for c in cells)
    assert ray.most == 2
    assert not said
    assert not ray.cancelled
    assert (ray.room["num_cpus"], ray.room["num_gpus"], ray.room["max_retries"]) == (3, 0, 0)
    assert ray.room["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"


def test_a_lost_task_is_tried_again_and_not_for_ever(drive) -> None:
    first: list[str] = []

    def outcome(key: str, attempt: int):
        first.append(key)
        return Lost("the node is gone") if key == first[0] else ""

    ray, said, cells = drive(outcome, workers=4)
    assert ray.started.count(cells[0].key) == 1 + executors.RESTARTS
    assert all(ray.started.count(c.key) == 1 for c in cells[1:])
    assert len(said) == 1 + executors.RESTARTS
    assert said[0].startswith(
        "a task was lost (Lost) at shift_attack x none, seed 0: its start; it is tried again"
    )
    assert said[-1].endswith("it is left open")


def test_what_the_user_can_mend_and_an_interrupt_end_all_tasks(drive) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        drive(lambda key, attempt: "the disk is full", workers=4)
    assert drive.ray.cancelled == drive.ray.running != []
    with pytest.raises(KeyboardInterrupt):
        drive(lambda key, attempt: KeyboardInterrupt(), workers=4)
    assert drive.ray.cancelled == drive.ray.running != []


def cell(attack: str, defense: str, seed: int = 0) -> Cell:
    return Cell("tiny", attack, defense, seed, f"{attack}-{defense}-{seed}", {})


def test_one_cell_of_an_attack_goes_first() -> None:
    cells = [cell(a, d, s) for s in (0, 1) for a in ("x", "y") for d in ("none", "fix")]
    names = lambda found: [c.key for c in found]  # noqa: E731
    first = cluster.startable(cells, [], set(), 10)
    assert names(first) == ["x-none-0", "y-none-0", "x-none-1", "y-none-1"]
    left = [c for c in cells if c not in first]
    assert cluster.startable(left, first, set(), 10) == []
    assert names(cluster.startable(left, first, {("x", 0)}, 10)) == ["x-fix-0"]
    assert names(cluster.startable(left, first[1:], set(), 10)) == ["x-fix-0"], (
        "the first was lost: the next one goes first"
    )
    assert names(cluster.startable(cells, [], {("x", 0)}, 2)) == ["x-none-0", "x-fix-0"]
    assert cluster.startable(cells, first, {("x", 0)}, 4) == []


def test_what_a_cell_takes() -> None:
    on_gpu = Config(device="cuda", executor="ray")
    assert cluster.gpu_share(on_gpu) == 1
    assert cluster.gpu_share(dataclasses.replace(on_gpu, gpu_share=0.25)) == 0.25
    assert cluster.gpu_share(dataclasses.replace(on_gpu, device="cpu", gpu_share=0.25)) == 0
    assert devices.share(on_gpu, "sd", 7) == (7, None), "as many as there is room for"
    assert devices.share(dataclasses.replace(on_gpu, workers=3), "sd", 7) == (3, None)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"device": "cuda:1"}, "give --device cuda"),
        ({"gpu_share": 0.0}, "must be a part"),
        ({"gpu_share": 1.5}, "must be a part"),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch, more, words) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: object())
    cluster.check(Config(executor="ray", gpu_share=2.0))
    with pytest.raises(UserError, match=words):
        cluster.check(dataclasses.replace(Config(executor="ray"), **more))


def test_without_ray_the_command_says_what_to_install(monkeypatch, tiny, tmp_path, capsys) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    flags = [
        "--base",
        tiny,
        "--attacks",
        "badt2i_pixel",
        "--defenses",
        "none",
        "--executor",
        "ray",
        "--device",
        "cpu",
    ]
    assert run_bench.main([*flags, "--out", str(tmp_path / "run")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_ray_that_does_not_start_is_one_line(monkeypatch) -> None:
    ray = ModuleType("ray")
    ray.shutdown = lambda: None
    ray.is_initialized = lambda: False
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def init(address, **more):
        raise (
            ConnectionError("no cluster")
            if address == "auto"
            else Exception("The current node timed out during startup.\nMore")
        )

    ray.init = init
    monkeypatch.setitem(sys.modules, "ray", ray)
    with (
        pytest.raises(UserError, match="does not start on this machine") as error,
        cluster.connected(0),
    ):
        pass
    assert "\n" not in str(error.value)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match="no Ray cluster at RAY_ADDRESS=10"), cluster.connected(0):
        pass


def test_processes_of_ray_find_a_clone_that_is_not_installed(monkeypatch, tmp_path) -> None:
    assert cluster.can_be_imported()
    assert not cluster.can_be_imported("a_package_that_nobody_has")
    assert cluster.find_package_there() == {}
    monkeypatch.setattr(cluster, "can_be_imported", lambda: False)
    there = cluster.find_package_there()
    module, function = there["worker_process_setup_hook"].split(".")
    paths = [there["env_vars"]["PYTHONPATH"], str(Path(np.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def runs(code: str) -> bool:  # -S: without what only the installed package would bring
        words = [sys.executable, "-S", "-c", code]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, timeout=60)
        return done.returncode == 0

    assert not runs("import t2i_backdoor_bench")
    assert runs(f"import {module}; {module}.{function}(); import t2i_backdoor_bench.attacks")


def test_settings() -> None:
    assert settings.make_config({"executor": "ray", "gpu-share": 1}).gpu_share == 1.0
    with pytest.raises(UserError, match="unknown executor 'slurm'; known: local, ray"):
        settings.make_config({"executor": "slurm"})
    with pytest.raises(UserError, match="gpu-share must be a number"):
        settings.make_config({"gpu_share": "half"})
