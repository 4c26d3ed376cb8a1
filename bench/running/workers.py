"""Several worker processes that share the run folder and make its cells.

Workers agree through the folder alone: who makes a cell holds its lock, and what a worker that died
had begun is made by the others. The numbers do not depend on the number of workers, as each takes
the same number of threads.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tqdm.std import tqdm

from t2i_backdoor_bench.contract import Cell, Data, UserError, no_exit
from t2i_backdoor_bench.contract.printable import printable_stderr
from t2i_backdoor_bench.running.cell import make_unsettled
from t2i_backdoor_bench.running.devices import gpus_of, use_processor
from t2i_backdoor_bench.running.display import Display, Reporter
from t2i_backdoor_bench.running.fork_server import (
    environment,
    hear_interrupts,
    start_method,
    variables_of,
)
from t2i_backdoor_bench.running.phases import IDLE, Clock
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store

RESTARTS = 3


@dataclass
class Worker:
    """A worker process, the pipe that it reports through, and where it was last."""

    process: BaseProcess
    events: Connection
    place: int = 0  # of all workers: which GPU it has
    phase: str = "its start"
    clock: Clock = field(default_factory=Clock)

    def death(self, again: bool) -> str:
        """The line for a worker that died."""
        then = "another takes over" if again else "no other is started"
        return f"a worker died (exit status {self.process.exitcode}) at {self.phase}; {then}"


def leave_with_parent() -> None:
    """End this worker process in the moment in which the one that started it is gone, however that
    ended: nobody listens any more, and its locks would hold up the next command."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(130)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


def worker(
    config: Config,
    data: Data | None,
    keys: list[str],
    since: int,
    events: Connection,
    until: float = math.inf,
    variables: Mapping[str, str] | None = None,
) -> None:
    """What a worker process does: its part of the cells of `config` that `keys` name, which begin
    before the moment `until`, with the environment `variables`. It ends in silence when it is
    interrupted or when nobody listens any more."""
    os.environ.update(variables or {})  # a copy of another process has that one's
    hear_interrupts()
    tqdm.set_lock(threading.RLock())  # its own is the system's: who is ended leaves it behind
    leave_with_parent()
    try:
        use_processor(config)
        display = Reporter(events.send)
        with no_exit(), printable_stderr():
            plan_ = plan(config, data)
            store = Store(config.folder, display.say, since=since)
            shared = Shared(plan_, store, display, until=until)
            shared.load()
            todo = {c.key: c for c in plan_.cells if c.key in set(keys)}
            make_unsettled(shared, list(todo.values()))
    except UserError as error:  # the next worker would find the same
        events.send(("fatal", str(error)))
        os._exit(2)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)


def run_workers(
    plan_: Plan,
    data: Data | None,
    todo: Sequence[Cell],
    store: Store,
    display: Display,
    until: float = math.inf,
) -> None:
    """Make `todo` by `plan_.config.workers` processes, and show where they are. On "cuda" they take
    the GPUs of this machine in turn. A worker that dies is replaced, RESTARTS times in all; after
    that, what nobody made stays open, as is what has not begun at the moment `until`. A
    KeyboardInterrupt, and a UserError in a worker, end all of them and get out; workers end with
    this process."""
    config = replace(plan_.config, fresh=False)  # what is not to be read is told by `since`
    variables, gpus = variables_of(config.threads), gpus_of(config.device)
    context, keys = start_method(config.device, config.threads), [c.key for c in todo]

    def start(place: int) -> Worker:
        own = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}
        ours, theirs = context.Pipe(duplex=False)
        with environment(variables | own):
            arguments = (config, data, keys, store.since, theirs, until, dict(os.environ))
            process = context.Process(target=worker, args=arguments, daemon=True)
            process.start()
        theirs.close()
        return Worker(process, ours, place)

    workers, restarts = [start(place) for place in range(config.workers)], 0
    clocks = [one.clock for one in workers]
    try:
        while workers:
            for events in wait([w.events for w in workers]):
                one = next(w for w in workers if w.events is events)
                try:
                    kind, text = events.recv()
                except EOFError:  # it has ended
                    workers.remove(one)
                    one.process.join()
                    if one.process.exitcode:
                        again = restarts < RESTARTS and time.time() < until
                        display.say(one.death(again))
                        if again:
                            restarts += 1
                            workers.append(start(one.place))
                            clocks.append(workers[-1].clock)
                    continue
                if kind == "fatal":
                    raise UserError(text)
                if kind == "say":
                    display.say(text)
                elif kind == "finish":
                    one.clock.turn(IDLE)
                    display.finish(text)
                else:
                    one.phase = text
                    one.clock.turn(text.rpartition(": ")[2])
                    display.phases(text, [w.phase for w in workers])
    finally:
        end_workers(workers, clocks, display)


def end_workers(workers: Sequence[Worker], clocks: Sequence[Clock], display: Display) -> None:
    """End those that still run, and tell the display what all of them took."""
    for one in workers:
        one.process.terminate()
    for one in workers:
        one.process.join()
    for clock in clocks:
        clock.turn(IDLE)
        display.clock.add(clock.spent)
