"""JSON that comes from others: one value of plain texts and finite numbers, or ValueError.

Python's own reader also takes NaN, infinity, 1e999, a key given twice, half of a surrogate pair and
any depth. Each of these ends in a traceback later, or lets two programs read two things.
"""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 100  # levels; what this program writes has at most ten
LARGEST = 2**64  # of whole numbers; a larger one is no float either


def parse(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError, in one line."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        found = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(found)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _check(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        if not level:
            return
        inner: list[Any] = []
        for found in level:
            if isinstance(found, dict):
                inner += [*found, *found.values()]
            elif isinstance(found, list):
                inner += found
            elif isinstance(found, str):
                found.encode()  # UnicodeEncodeError, a ValueError, for half of a surrogate pair
            elif isinstance(found, int) and abs(found) >= LARGEST:
                raise ValueError("a whole number is too large")
        level = inner
    raise ValueError("it is nested too deep")
