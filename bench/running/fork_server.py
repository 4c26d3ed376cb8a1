"""A process that has imported this suite, and of which each worker is a copy: importing takes
seconds, and a copy none."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

PRELOADED = "t2i_backdoor_bench.running.preloaded"
QUIET = {"TQDM_DISABLE": "1"}  # the bars of several processes would tear each other
GPUS = ("/dev/nvidiactl", "/dev/kfd")  # a driver of NVIDIA or AMD is there
_begun: list[tuple[int, dict[str, str]]] = []  # who began it, and with which variables


def variables_of(threads: int | None) -> dict[str, str]:
    """The environment that a worker's process adds to this one's."""
    return QUIET | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """What processes that start in the block find in their environment."""
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def cores() -> int:
    """The cores that this process may use, as far as the system tells."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # there is none on macOS
        return os.cpu_count() or 1


def possible(device: str) -> bool:
    """Whether workers on `device` can be copies. On Linux alone they are: elsewhere the libraries
    do not stand it. A copy of a process that has asked for a GPU cannot use it."""
    gpu = device == "auto" and any(Path(path).exists() for path in GPUS)
    return sys.platform == "linux" and device in ("auto", "cpu") and not gpu


def begin(device: str, threads: int | None) -> None:
    """Start the process, unless it is there or of no use: it imports while this one goes on."""
    if _begun or not possible(device) or cores() == 1:
        return
    variables = variables_of(threads)
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    resource_tracker.ensure_running()  # its start would unblock Ctrl-C
    with environment(variables), no_interrupts():  # Ctrl-C is this process's: it ends the workers
        forkserver.ensure_running()
    _begun.append((os.getpid(), variables))


@contextmanager
def no_interrupts() -> Iterator[None]:
    """A process that starts in the block does not hear Ctrl-C, nor do its copies, until each calls
    `hear_interrupts`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_interrupts() -> None:
    """Let Ctrl-C end this process."""
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def start_method(device: str, threads: int | None) -> BaseContext:
    """How workers with these threads start: as copies, or where they cannot, each by itself."""
    begin(device, threads)
    copies = possible(device) and (os.getpid(), variables_of(threads)) in _begun
    return multiprocessing.get_context("forkserver" if copies else "spawn")
