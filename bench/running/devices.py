"""The device of a run, and how many cells this machine makes at a time."""

from __future__ import annotations

import ctypes
import os
import platform

import psutil
import torch

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running.fork_server import cores
from t2i_backdoor_bench.running.settings import Config

MEMORY_GB = 2.0  # that a worker on the embedded base takes at most
# glibc's mallopt: from which size on each block is a mapping of its own, and how much freed memory
# at the end of the heap is kept
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def find_device(name: str) -> str:
    """The device called `name`; "auto" is the accelerator where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; known: cpu, cuda, cuda:1, mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device {name!r} is not supported; known: cpu, cuda, cuda:1, mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device {name!r} is not there: torch sees none; use --device cpu")
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices;"
            " use --device cpu"
        )
    return name


def use_processor(config: Config) -> None:
    """Give this process the threads of `config`, and let it keep the memory that it frees.

    A U-Net takes and frees blocks of megabytes at every layer. glibc hands each back to the system
    and asks for it anew, and the system clears it every time: about a seventh of the time of
    drawing (benchmarks/kept_memory.py)."""
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Whether this process now keeps what it frees: with glibc alone."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, 2**30))


def share(config: Config, family: str, cells: int) -> tuple[int, int | None]:
    """(workers, CPU threads of each; None is torch's own choice) for that many cells.

    The embedded base on a CPU takes one thread a worker and a worker a core, as far as the memory
    goes: two threads on one cell are 1.4 times as fast as one, two cells at a time are twice as
    fast. Everything else runs in one process unless asked otherwise.
    """
    small = family == "shapes" and config.device == "cpu"
    threads = config.threads or (1 if small else None)
    if config.executor == "ray":  # it knows how many there is room for
        return config.workers or max(1, cells), threads
    if config.workers:
        return min(config.workers, max(1, cells)), threads
    if not small:
        return 1, threads
    memory = int(psutil.virtual_memory().available / 2**30 // MEMORY_GB)
    return max(1, min(cores() // threads, memory, cells)), threads


def gpus_of(device: str) -> list[str]:
    """The GPUs that workers on `device` take in turn, as CUDA_VISIBLE_DEVICES names them: all that
    this process sees for "cuda"; none to choose for a device with its number ("cuda:1") and for
    others."""
    if device != "cuda":
        return []
    many = torch.cuda.device_count()
    given = [
        name.strip()
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if name.strip()
    ]
    return given[:many] or [str(i) for i in range(many)]
