"""Work in batches that become smaller where the memory does not suffice."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import torch
from tqdm import tqdm

from t2i_backdoor_bench.contract.progress import progress

ROOM = 0.45  # of a device's memory: twice as much leaves some for what comes between
CPU_SAYS = (
    "can't allocate memory",
    "not enough memory",
)  # torch raises a bare RuntimeError on the CPU


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_SAYS)
    )


def free_memory() -> None:
    """Give back what nothing holds any more, to other processes too: torch keeps the memory of a
    GPU for itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_used(device: torch.device) -> Callable[[], float] | None:
    """For `in_batches`, on CUDA: the largest share of the device's memory that this process has
    used (since what a method costs was last measured from), and what others use now."""
    if device.type != "cuda":
        return None

    def used() -> float:
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        return (others + torch.cuda.max_memory_allocated(device)) / total

    return used


def in_batches(
    n: int,
    size: int,
    make: Callable[[slice], None],
    label: str,
    room: Callable[[], float] | None = None,
) -> int:
    """Call `make` for consecutive slices of `n` items, at most `size` at a time. Out of memory, a
    slice is made again at half its size, and so are those that follow; one item that is too large
    raises. With `room`, which tells the share of the memory that was in use at most so far, a
    slice that left more than half free is followed by one of twice its size. Returns the
    size at the end. For work whose results do not depend on it.
    """
    first, most = 0, n
    with progress(range(n), label, unit="image") as bar:
        while first < n:
            try:
                make(slice(first, first + size))
            except (RuntimeError, MemoryError) as error:
                size = min(size, n - first)
                if size < 2 or not is_out_of_memory(error):
                    raise
            else:
                bar.update(min(size, n - first))
                first += size
                if room is not None and 2 * size <= most and room() < ROOM:
                    size *= 2
                continue
            # outside of the handler: there the error's traceback holds the tensors of the failed
            # batch
            size //= 2
            most = size  # what did not fit is not tried again
            free_memory()
            tqdm.write(
                f"{label}: out of memory; going on with {size} images at a time", file=sys.stderr
            )
    return size
