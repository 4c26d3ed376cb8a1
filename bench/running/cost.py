"""What a method costs, measured from outside."""

from __future__ import annotations

import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import torch


@contextmanager
def measured(device: torch.device) -> Iterator[dict[str, float]]:
    """Fills `seconds` and `peak_memory_mb` of the block: the accelerator's peak, or else the
    largest resident size of this process, read every 20 ms."""
    cost: dict[str, float] = {}
    process, stop = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    watcher.start()
    begun = time.perf_counter()
    try:
        yield cost
    finally:
        if cuda:
            torch.cuda.synchronize(device)
        cost["seconds"] = time.perf_counter() - begun
        stop.set()
        watcher.join()
        peak_bytes = (
            torch.cuda.max_memory_allocated(device)
            if cuda
            else max(peak[0], process.memory_info().rss)
        )
        cost["peak_memory_mb"] = peak_bytes / 2**20


@cache
def machine(device: str) -> str:
    """The name of what computes: the processor, or on CUDA the accelerator. Rounding and seconds
    are its own."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.is_file() else None
    )
    return found[1].strip() if found else platform.processor() or platform.machine()
