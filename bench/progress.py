"""One progress bar for everything that takes more than a few seconds. Shows the rate and the time left, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], label: str, total: int | None = None, done: int = 0, unit: str = "step") -> Iterator[T]:
    """Iterate with a progress bar that disappears when finished; on a pipe it prints a line every half minute instead."""
    live = sys.stderr.isatty()
    return tqdm(
        items,
        desc=label,
        total=total,
        initial=done,
        unit=unit,
        leave=False,
        dynamic_ncols=live,
        mininterval=0.2 if live else 30,
        maxinterval=1 if live else 60,
        delay=0 if live else 20,
        ascii=not live,
    )
