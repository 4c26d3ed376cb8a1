"""One progress bar, on stderr, for everything that takes more than a few seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def live() -> bool:
    """Whether someone watches: stderr is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress(
    items: Iterable[Any], label: str, total: int | None = None, done: int = 0, unit: str = "step"
) -> tqdm:
    """Iterate with a progress bar that disappears at the end. Without a terminal it prints a line
    every half minute instead."""
    seen = live()
    return tqdm(
        items,
        desc=label,
        total=total,
        initial=done,
        unit=unit,
        leave=False,
        dynamic_ncols=seen,
        mininterval=0.2 if seen else 30,
        maxinterval=1 if seen else 60,
        delay=0 if seen else 20,
        ascii=not seen,
    )
