"""Content keys: a value as one JSON text, and the SHA-256 of that text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any, unbounded: Callable[[float], Any] = lambda value: None) -> Any:
    """`value` as JSON can store it: dataclasses and mappings as objects, arrays as a digest, paths
    as text, NaN and infinity as null. Of options, which a key is made of, they are their names
    (`unbounded=str`): an option of nan is not one of inf."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # by getattr: a field that is not set in the instance has its default in the class
        return {f.name: plain(getattr(value, f.name), unbounded) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v, unbounded) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return {
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "sha256": hashlib.sha256(np.ascontiguousarray(value)).hexdigest(),
        }
    if isinstance(value, (list, tuple)):
        return [plain(v, unbounded) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v, unbounded) for v in value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else unbounded(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        # half of a surrogate pair, as broken captions have: it cannot be written to a file
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def canonical(value: Any) -> str:
    """The JSON text of a value, with sorted keys and no spaces. Keys and checksums are made from
    it."""
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()
