"""Cells as Ray tasks, on a laptop as on a cluster (`--executor ray`).

The run folder stays the single truth, as for local workers: a task makes its cell under the cell's
lock and stores it, and every node must see the folder under the same path, with locks. Ray starts
the tasks where there is room for them and says which were lost.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from t2i_backdoor_bench.contract import Cell, Data, UserError
from t2i_backdoor_bench.running.cell import make_unsettled
from t2i_backdoor_bench.running.display import Display, Reporter
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.workers import RESTARTS, variables_of
from t2i_backdoor_bench.store.folder import Store

OBJECT_STORE = (
    2**28
)  # bytes, of a Ray that is started here: all that matters goes through the run folder


def check(config: Config) -> None:
    """Raise UserError where this run cannot go by Ray."""
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
    """The GPUs that a cell takes: one on CUDA unless asked otherwise, none elsewhere."""
    return (config.gpu_share or 1.0) if config.device.startswith("cuda") else 0.0


def startable(
    waiting: Sequence[Cell],
    running: Collection[Cell],
    trained: Collection[tuple[str, int]],
    most: int,
) -> list[Cell]:
    """The cells to start now, so that at most `most` run: one alone of an attack and seed until
    that is in `trained`, as the others would wait for its weights and hold a GPU meanwhile."""
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
    """What is shared in this task's process, with its models loaded: Ray gives a process one task
    after the other."""
    import ray

    if Path(place).is_dir():
        os.chdir(place)  # names of folders on the command line are meant from there
    if config.threads:
        torch.set_num_threads(config.threads)
    display = Reporter(lambda event: None)
    shared = Shared(
        plan(config, ray.get(data)),
        Store(config.folder, lambda text: display.say(text), since=since),
        display,
    )
    shared.load()
    return shared


def make_in_task(
    config: Config, data: list[Any], key: str, since: int, place: str, events: Any
) -> str:
    """What a task does: make one cell, unless it is stored or another process makes it. Returns "",
    or the one line that ends the run."""
    try:
        shared = open_shared(config, data[0], since, place)
        shared.display.send = events.put
        make_unsettled(shared, [next(c for c in shared.plan.cells if c.key == key)])
    except UserError as error:  # the next task would find the same
        return str(error)
    return ""


# ------------------------------------------------------------------------------------------- driver
@contextmanager
def connected(share: float) -> Iterator[ModuleType]:
    """Ray, connected to the cluster that RAY_ADDRESS names or that runs on this machine, or else to
    one that is started here for the length of the block. A connection that is there already is used
    and left."""
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
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init("auto", **quiet)
        return
    except ConnectionError as error:
        if address:
            raise UserError(
                f"there is no Ray cluster at RAY_ADDRESS={address}: {_first_line(error)}"
            ) from None
    try:
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
    except (
        Exception
        # a bare one, where a machine is so busy that Ray does not wait for its own processes
    ) as error:
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


def environment(plan_: Plan) -> dict[str, str]:
    """What a task's process finds in its environment: that of a worker, and this package where it
    is not installed."""
    paths = [os.environ.get("PYTHONPATH", "")]
    return variables_of(plan_.config) | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def run_tasks(
    plan_: Plan, data: Data | None, todo: Sequence[Cell], store: Store, display: Display
) -> None:
    """Make `todo` by Ray tasks, at most `plan_.config.workers` at a time, and show where they are.
    The cell of a task that is lost, with its process or its node, is tried again, RESTARTS times in
    all; after that it stays open. A KeyboardInterrupt, and a UserError in a task, end all of them
    and get
    out."""
    share, config = (
        gpu_share(plan_.config),
        replace(plan_.config, fresh=False, out=plan_.config.folder.resolve()),
    )
    weights = {
        (c.attack, c.seed): f"models/{plan_.attack_key(c.attack, c.seed)}.safetensors" for c in todo
    }
    trained = {attack for attack, name in weights.items() if store.find_file(name) is not None}
    with connected(share) as ray:
        from ray.util.queue import Queue

        events, given, place = Queue(actor_options={"num_cpus": 0}), ray.put(data), str(Path.cwd())
        room = {
            "num_cpus": config.threads or 1,
            "num_gpus": share,
            "max_retries": 0,
            "runtime_env": {"env_vars": environment(plan_)},
        }
        task, left, running, phases, lost = ray.remote(**room)(make_in_task), list(todo), {}, {}, 0
        try:
            while left or running:
                for cell in startable(left, running.values(), trained, config.workers or len(todo)):
                    left.remove(cell)
                    running[task.remote(config, [given], cell.key, store.since, place)] = cell
                done, _ = ray.wait(list(running), timeout=0.5)
                for kind, text in events.get_nowait_batch(events.qsize()):
                    _show(display, kind, text, phases)
                for ref in done:
                    cell = running.pop(ref)
                    at = phases.pop(_name(cell), f"{_name(cell)}: its start")
                    try:
                        fatal = ray.get(ref)
                    except ray.exceptions.RayError as error:
                        again = lost < RESTARTS
                        lost += 1
                        left += [cell] if again else []
                        why = (
                            (str(error).strip().splitlines() or [""])[-1]
                            if isinstance(error, ray.exceptions.RayTaskError)
                            else ""
                        )
                        what = why or type(error).__name__
                        display.say(
                            f"a task was lost ({what}) at {at};"
                            f" {'it is tried again' if again else 'it is left open'}"
                        )
                        continue
                    if fatal:
                        raise UserError(fatal)
                    trained.add((cell.attack, cell.seed))
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
            events.shutdown(force=True)


def _name(cell: Cell) -> str:
    return f"{cell.attack} x {cell.defense}, seed {cell.seed}"


def _show(display: Display, kind: str, text: str, phases: dict[str, str]) -> None:
    """What a task reports: "phase" texts begin with the name of its cell."""
    if kind == "say":
        display.say(text)
    elif kind == "finish":
        display.finish()
    else:
        phases[text.rsplit(": ", 1)[0]] = text
        display.phases(text, list(phases.values()))
