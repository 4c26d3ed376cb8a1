"""Where the seconds of a command go: each process is in one phase at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

START, IDLE = "start", "idle"  # until the first phase, and between two cells


@dataclass
class Clock:
    """Seconds by phase of one process, from its start on. `now` is a clock, in seconds."""

    now: Callable[[], float] = time.perf_counter
    phase: str = START
    spent: dict[str, float] = field(default_factory=dict)
    since: float = 0.0

    def __post_init__(self) -> None:
        self.since = self.now()

    def turn(self, phase: str) -> None:
        """From now on the process is in another phase."""
        now = self.now()
        self.add({self.phase: now - self.since})
        self.phase, self.since = phase, now

    def add(self, spent: dict[str, float]) -> None:
        """Add what another process spent."""
        for phase, seconds in spent.items():
            self.spent[phase] = self.spent.get(phase, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """What was spent so far, without waiting, to a tenth of a second."""
        return {k: round(v, 1) for k, v in self.spent.items() if k != IDLE and round(v, 1) > 0}
