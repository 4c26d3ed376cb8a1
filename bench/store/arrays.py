"""Named arrays in safetensors files that are written and read without being held in memory: ten
thousand pictures of 512 px are 8 GB."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract.strict_json import parse

TYPES = {
    "U8": "u1",
    "I8": "i1",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
NAMES = {np.dtype(v): k for k, v in TYPES.items()}
LARGE = 2**28  # bytes from which an array that is filled bit by bit lies in a file


def scratch(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, uint8: in memory, or where they are many in a nameless file in `folder` that goes when
    the array does. Raises OSError where it does not fit."""
    if prod(shape) < LARGE:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile(dir=folder) as file:
        # a disk that is full says so now, not by a signal while it is filled
        with contextlib.suppress(AttributeError):  # macOS has no such call
            os.posix_fallocate(file.fileno(), 0, prod(shape))
        return np.asarray(np.memmap(file, np.uint8, "w+", shape=shape))


def write(path: Path, arrays: Mapping[str, np.ndarray], meta: Any) -> None:
    """Write arrays (bool as uint8) and a JSON text as one safetensors file, array by array."""
    given = {k: v.view(np.uint8) if v.dtype == bool else v for k, v in arrays.items()}
    header: dict[str, Any] = {"__metadata__": {"meta": meta}}
    order, end = (
        sorted(given, key=lambda k: (-given[k].dtype.itemsize, k)),
        0,
    )  # the widest first: every array is aligned
    for name in order:
        v = given[name]
        header[name] = {
            "dtype": NAMES[v.dtype],
            "shape": list(v.shape),
            "data_offsets": [end, end := end + v.nbytes],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(given[name]).reshape(-1).view(np.uint8).data)


def read(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of a safetensors file, read from disk where and when they are looked at, and its
    JSON value. What is written into them stays in memory. Raises ValueError, KeyError or TypeError
    for another file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"{path} ends within its header")
        header = parse(file.read(length))
    meta, arrays = parse(header.pop("__metadata__")["meta"]), {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = (
            np.dtype(TYPES[entry["dtype"]]),
            tuple(entry["shape"]),
            entry["data_offsets"],
        )
        if end - begin != prod(shape) * dtype.itemsize or begin < 0 or 8 + length + end > size:
            raise ValueError(f"{path}: the array {name} is not where the header says")
        place = 8 + length + begin
        arrays[name] = (
            np.asarray(np.memmap(path, dtype, "c", place, shape))
            if end > begin
            else np.zeros(shape, dtype)
        )
    return arrays, meta


def with_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays "prefix/name", by name."""
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in arrays.items() if k.startswith(f"{prefix}/")
    }
