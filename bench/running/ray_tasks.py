"""Cells as Ray tasks, on one machine or on a cluster (`--executor ray`).

As with local workers, all results are in the run folder: a task locks its cell, makes it and stores
it. Every node must see the folder under the same path, and the file system must support locks. Ray
starts tasks where there is room for them and reports the ones that were lost.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from t2i_backdoor_bench.contract import Cell, Data, UserError, no_exit
from t2i_backdoor_bench.running.cell import make_unsettled
from t2i_backdoor_bench.running.devices import use_processor
from t2i_backdoor_bench.running.display import Display, Reporter
from t2i_backdoor_bench.running.fork_server import variables_of
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.workers import RESTARTS
from t2i_backdoor_bench.store.folder import Store

PACKAGE = __name__.split(".")[0]
OBJECT_STORE = 2**28  # bytes, of a Ray that is started here: results go through the run folder


@dataclass
class Tasks:
    """The cells that wait for a task, the tasks that run and what each is doing, the attacks (with
    seed) that are trained, and how many tasks were lost."""

    waiting: list[Cell]
    trained: set[tuple[str, int]]
    running: dict[Any, Cell] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)  # by the name of the cell
    lost: int = 0

    def left(self, until: float) -> bool:
        """Whether a task runs, or may start: none does from the moment `until`."""
        if time.time() >= until:
            self.waiting.clear()
        return bool(self.waiting or self.running)


def check(config: Config) -> None:
    """Raise UserError if this run cannot use Ray."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--executor ray needs the package ray: pip install ray, or leave the flag out"
        )
    if ":" in config.device:
        raise UserError(
            f"--device {config.device}: Ray chooses the GPU of each cell; give --device cuda"
        )
    if config.gpu_share is not None and not (
        0 < config.gpu_share <= 1 or config.gpu_share == round(config.gpu_share) > 0
    ):
        raise UserError(
            f"--gpu-share {config.gpu_share:g} must be a part of one GPU, such as 0.5, or a whole"
            " number of GPUs"
        )


def gpu_share(config: Config) -> float:
    """How many GPUs a cell takes: on CUDA `--gpu-share`, by default 1; on the CPU 0."""
    return (config.gpu_share or 1.0) if config.device.startswith("cuda") else 0.0


def startable(
    waiting: Sequence[Cell],
    running: Collection[Cell],
    trained: Collection[tuple[str, int]],
    most: int,
) -> list[Cell]:
    """The cells to start now, so that at most `most` run. Until an attack and seed is in `trained`,
    only one of its cells runs: the others would hold a GPU while they wait for its weights."""
    busy, found = {(c.attack, c.seed) for c in running}, []
    for cell in waiting:
        if len(running) + len(found) >= most:
            break
        attack = (cell.attack, cell.seed)
        if attack in trained or attack not in busy:
            busy.add(attack)
            found.append(cell)
    return found


# -------------------------------------------------------------------------------------------- tasks
@lru_cache(maxsize=1)
def open_shared(config: Config, data: Any, since: int, place: str) -> Shared:
    """What the cells of a run share, with the models loaded. It is kept for the next task: Ray
    gives one process several tasks, one after the other."""
    import ray

    if Path(place).is_dir():
        os.chdir(place)  # relative paths on the command line start there
    use_processor(config)
    display = Reporter(lambda event: None)
    shared = Shared(
        plan(config, ray.get(data)),
        Store(config.folder, lambda text: display.say(text), since=since),
        display,
    )
    shared.load()
    return shared


def make_in_task(
    config: Config, data: list[Any], key: str, since: int, place: str, events: Any, until: float
) -> str:
    """What a task does: make one cell, unless it is stored, another process makes it, or its turn
    comes after the moment `until`. Returns "" or, if the whole run must end, the error in one
    line."""
    try:
        with no_exit():
            shared = open_shared(config, data[0], since, place)
            shared.display.send, shared.until = events.put, until
            make_unsettled(shared, [next(c for c in shared.plan.cells if c.key == key)])
    except UserError as error:  # the next task would find the same
        return str(error)
    return ""


# ------------------------------------------------------------------------------------------- driver
@contextmanager
def connected(share: float) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at RAY_ADDRESS or on this machine. If there is none, a cluster
    is started for the length of the block. An existing connection is used and stays open."""
    import ray

    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _connect(ray, share)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, share: float) -> None:
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    options |= {"runtime_env": found} if (found := find_package_there()) else {}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init("auto", **options)
        return
    except ConnectionError as error:
        if address:
            raise UserError(
                f"there is no Ray cluster at RAY_ADDRESS={address}: {_first_line(error)}"
            ) from None
    try:
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE, **options)
    except Exception as error:  # Ray raises this base class if its own processes start too slowly
        why = _first_line(error)
        raise UserError(
            f"Ray does not start on this machine ({why}): try again, or start it with 'ray start"
            " --head'"
        ) from None
    if (have := ray.cluster_resources().get("GPU", 0)) < share:
        raise UserError(
            f"a cell takes {share:g} GPUs and Ray finds {have:g} on this machine: connect to a"
            " cluster"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def trained_attacks(plan_: Plan, cells: Sequence[Cell], store: Store) -> set[tuple[str, int]]:
    """The attacks and seeds whose weights are stored."""
    keys = {(c.attack, c.seed): plan_.attack_key(c.attack, c.seed) for c in cells}
    return {a for a, key in keys.items() if store.find_file(f"models/{key}.safetensors")}


def python_path() -> dict[str, str]:
    """Where a task's process finds packages: as here, and `run_bench.py` in the clone if this
    package is not installed."""
    clone = [] if can_be_imported() else [str(Path(__file__).resolve().parents[2])]
    paths = [*clone, os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def find_package_there() -> dict[str, Any]:
    """The environment of Ray's processes in which `run_bench.py` finds this package, for a clone
    that is not installed. Ray takes the hook only when it is connected to."""
    if can_be_imported():
        return {}
    return {"worker_process_setup_hook": "run_bench.find_package", "env_vars": python_path()}


def can_be_imported(package: str = PACKAGE) -> bool:
    """Whether a new process can import the package. False in a clone that is not installed, where
    `run_bench.py` finds the package for its own process."""
    return any(finder.find_spec(package, None) is not None for finder in sys.meta_path)


def run_tasks(
    plan_: Plan,
    data: Data | None,
    todo: Sequence[Cell],
    store: Store,
    display: Display,
    until: float = math.inf,
) -> None:
    """Make `todo` by Ray tasks, at most `plan_.config.workers` at a time, and show their progress.

    If a task is lost with its process or its node, its cell is tried again, RESTARTS times in all;
    after that it stays open, as does what has not begun at the moment `until`. Raises
    KeyboardInterrupt, and UserError from a task; both end all tasks.
    """
    config = replace(plan_.config, fresh=False, out=plan_.config.folder.resolve())
    share, most = gpu_share(config), config.workers or len(todo)
    tasks = Tasks(list(todo), trained_attacks(plan_, todo, store))
    with connected(share) as ray:
        from ray.util.queue import Queue

        events, given, place = Queue(actor_options={"num_cpus": 0}), ray.put(data), str(Path.cwd())
        make = ray.remote(
            num_cpus=config.threads or 1,
            num_gpus=share,
            max_retries=0,
            runtime_env={"env_vars": variables_of(config.threads) | python_path()},
        )(make_in_task)
        try:
            while tasks.left(until):
                for cell in startable(tasks.waiting, tasks.running.values(), tasks.trained, most):
                    tasks.waiting.remove(cell)
                    about = (cell.key, store.since, place, events, until)
                    tasks.running[make.remote(config, [given], *about)] = cell
                ended, _ = ray.wait(list(tasks.running), timeout=0.5)
                for kind, text in events.get_nowait_batch(events.qsize()):
                    _show(display, kind, text, tasks.phases)
                for task in ended:
                    _end(ray, task, tasks, display)
        finally:
            for task in tasks.running:
                ray.cancel(task, force=True)
            events.shutdown(force=True)


def _end(ray: ModuleType, task: Any, tasks: Tasks, display: Display) -> None:
    """Take note of a task that has ended. Raises UserError if it says that the run must end."""
    cell = tasks.running.pop(task)
    phase = tasks.phases.pop(_name(cell), f"{_name(cell)}: its start")
    try:
        fatal = ray.get(task)
    except ray.exceptions.RayError as error:
        again = tasks.lost < RESTARTS
        tasks.lost += 1
        if again:
            tasks.waiting.append(cell)
        raised = isinstance(error, ray.exceptions.RayTaskError)  # by the task itself
        why = (str(error).strip().splitlines() or [""])[-1] if raised else ""
        then = "it is tried again" if again else "it is left open"
        display.say(f"a task was lost ({why or type(error).__name__}) at {phase}; {then}")
        return
    if fatal:
        raise UserError(fatal)
    tasks.trained.add((cell.attack, cell.seed))


def _name(cell: Cell) -> str:
    return f"{cell.attack} x {cell.defense}, seed {cell.seed}"


def _show(display: Display, kind: str, text: str, phases: dict[str, str]) -> None:
    """Show what a task reports. A text of the kind "phase" begins with the name of its cell."""
    if kind == "say":
        display.say(text)
    elif kind == "finish":
        display.finish(text)
    else:
        phases[text.rsplit(": ", 1)[0]] = text
        display.phases(text, list(phases.values()))
