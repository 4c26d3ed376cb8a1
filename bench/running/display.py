"""Where a run is: which cell, which phase, and the time left, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from tqdm import tqdm

from t2i_backdoor_bench.contract import printable as plaintext
from t2i_backdoor_bench.contract.progress import live
from t2i_backdoor_bench.running.phases import IDLE, Clock


class Watcher(Protocol):
    """Who is told when the work begins and of each cell."""

    def begin(self, total: int) -> None:
        """So many cells are to be made."""

    def cell(self, key: str) -> None:
        """The cell of this key is stored."""


class Nobody:
    def begin(self, total: int) -> None: ...

    def cell(self, key: str) -> None: ...


class Display:
    """Where the run is: cell x of y, phase and time left, on stderr. One live bar on a terminal,
    plain lines on a pipe."""

    def __init__(self) -> None:
        self.live = live()
        self.bar: tqdm | None = None
        self.total, self.done, self.begun, self.name = 0, 0, 0.0, ""
        self.watcher: Watcher = Nobody()
        self.clock = Clock()

    def open(self, total: int) -> None:
        self.clock.turn(IDLE)
        self.total, self.done, self.begun = total, 0, time.perf_counter()
        self.watcher.begin(total)
        if (
            self.live and total
        ):  # the bars of training and generation appear below it and clear themselves
            form = "{desc} |{bar}| {n}/{total} cells, {elapsed} gone, {remaining} left"
            self.bar = tqdm(total=total, leave=False, dynamic_ncols=True, bar_format=form)

    def start(self, name: str) -> None:
        self.name = name

    def phase(self, text: str) -> None:
        self.clock.turn(text)
        if self.bar is not None:
            self.bar.set_description_str(plaintext.visible(f"{self.name}: {text}"))
        else:
            self.say(
                f"[cell {min(self.done + 1, self.total)} of {self.total}] {self.name}:"
                f" {text}{self._left()}"
            )

    def phases(self, newest: str, all_: list[str]) -> None:
        """As `phase` where several cells are made at a time."""
        if self.bar is not None:
            text = " | ".join(all_)
            text = (
                text if len(text) < (self.bar.ncols or 100) - 45 else f"{newest} (+{len(all_) - 1})"
            )
            self.bar.set_description_str(plaintext.visible(text))
        else:
            self.say(f"[{self.done} of {self.total} cells done] {newest}{self._left()}")

    def _left(self) -> str:
        if not self.done:
            return ""
        seconds = (time.perf_counter() - self.begun) / self.done * (self.total - self.done)
        return (
            f" (about {seconds / 60:.0f} min left)"
            if seconds >= 90
            else f" (about {seconds:.0f} s left)"
        )

    def finish(self, key: str) -> None:
        """Take note that the cell of this key is stored."""
        self.done += 1
        self.clock.turn(IDLE)
        if self.bar is not None:
            self.bar.update()
        self.watcher.cell(key)

    def say(self, text: str) -> None:
        tqdm.write(plaintext.visible(text), file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Reporter(Display):
    """The display of a worker process: what it would show goes to the process that started it."""

    def __init__(self, send: Callable[[tuple[str, str]], None]) -> None:
        super().__init__()
        self.live, self.send = False, send

    def phase(self, text: str) -> None:
        self.send(("phase", f"{self.name}: {text}"))

    def finish(self, key: str) -> None:
        self.send(("finish", key))

    def say(self, text: str) -> None:
        self.send(("say", text))
