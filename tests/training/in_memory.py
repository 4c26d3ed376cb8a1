"""Checkpoints that lie in memory, for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


class Killed(Exception):
    pass


@dataclass
class InMemory:
    """Checkpoints as copies of arrays and JSON, by name. `die_after` so many writes it raises
    Killed."""

    kept: dict = field(default_factory=dict)
    steps: list[tuple[str, int]] = field(default_factory=list)
    die_after: int | None = None

    def read(self, name):
        arrays, text = self.kept.get(name, (None, ""))
        return None if arrays is None else (arrays, json.loads(text))

    def write(self, name, step, arrays, meta):
        self.steps.append((name, step))
        self.kept[name] = {k: v.copy() for k, v in arrays.items()}, json.dumps(meta)
        if len(self.steps) == self.die_after:
            raise Killed
