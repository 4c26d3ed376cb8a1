"""The settings that the search of settings chose for the embedded base, and how many it tried.

`benchmarks/tune.py report --apply` writes the file: by kind and method, `settings` (how many were
tried) and `options` (those of the chosen one; none where no setting kept clean pictures, so that
the method keeps its defaults).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tuned.json")


@dataclass(frozen=True)
class Tuned:
    """The chosen options of a method on the embedded base, and of how many settings."""

    settings: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@cache
def _read() -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def tuned(kind: str, name: str) -> Tuned:
    """What the search chose for a method; 0 settings where it was not searched."""
    return Tuned(**_read().get(kind, {}).get(name, {}))
