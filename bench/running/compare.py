"""A stored cell beside the same cell made again: what differs, to the last bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.contract.hashing import canonical, plain
from t2i_backdoor_bench.running.tracebacks import last_line
from t2i_backdoor_bench.store.folder import Store

# what is measured with a clock, or of a machine: from how much on a difference can be told from
# what else a machine does (`FAR`: times as much)
MEASURED = {
    "seconds": 5,
    "seconds_attack": 5,
    "seconds_per_step": 5,
    "seconds_picture": 5,
    "seconds_picture_before": 5,
    "seconds_picture_clean": 5,
    "peak_memory_mb": 1000,
    "detection_ms": 1000,
}
FAR = 10
# who made a record and where; `reasons` says what of it is another
MAKERS = ("codes", "machine", "sources")
FIELDS = ("status", "backdoor", "judge", "needs", "knowledge", "attack", "edits", "cost")
NOTHING = "nothing"
WIDE = 80  # letters of a value that are printed


def name_of(cell: Cell) -> str:
    return f"{cell.attack} x {cell.defense}, seed {cell.seed}"


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A nested value as {path: leaf}. An empty mapping or list is a leaf where it stands alone."""
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, (list, tuple))
        else None
    )
    if pairs is None:
        return {path: value}
    return {
        k: v
        for name, inner in pairs
        for k, v in leaves(inner, f"{path}.{name}" if path else str(name)).items()
    }


def differences(stored: Any, now: Any, apart: Collection[str] = ()) -> list[str]:
    """One line for each leaf in which two values differ, but for those whose path is `apart`."""
    a, b = leaves(stored), leaves(now)
    return [
        f"{path}: stored {_short(a.get(path, NOTHING))}, now {_short(b.get(path, NOTHING))}"
        for path in {**a, **b}
        if path not in apart
        and canonical([a.get(path, NOTHING)]) != canonical([b.get(path, NOTHING)])
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WIDE else f"{text[:WIDE]}..."


def compare_records(stored: Record, again: Record, asked: Collection[str]) -> list[str]:
    """What differs between two records of one cell: everything but the costs and who made it must
    be equal to the last bit. `asked` are the metrics of the run: others may be those of another
    cell's record alone."""
    if stored.status == "done" and again.status != "done":
        return [f"it fails now: {last_line(again.error)}"]
    cost = {f"cost.{name}" for name in MEASURED}
    old, new = ({k: plain(vars(r)[k]) for k in FIELDS} for r in (stored, again))
    wrong = differences(old, new, cost)
    if stored.provenance:
        old, new = (
            {k: v for k, v in r.provenance.items() if k not in MAKERS} for r in (stored, again)
        )
        apart = [f"networks.{name}" for name in again.scores if name not in stored.scores]
        wrong += [f"provenance, {text}" for text in differences(old, new, apart)]
    for name in dict.fromkeys([*stored.scores, *again.scores]):
        before, now = stored.scores.get(name), again.scores.get(name)
        if name in MEASURED and before and now:
            continue
        if before is None and name in asked:
            wrong.append(f"{name}: not stored, now {now.value}")
        elif now is None:
            wrong.append(f"{name}: stored {before.value}, and not measured now")
        elif before is not None and before != now:
            wrong.append(_score_line(name, before, now))
    return wrong


def _score_line(name: str, before: Any, now: Any) -> str:
    many = unequal(before.each or [], now.each or [])
    each = f" ({many} of {len(now.each or [])} images)" if many else ""
    line = (
        f"{name}: stored {before.value} [{before.low}, {before.high}], now {now.value}"
        f" [{now.low}, {now.high}]{each}"
    )
    others = differences(
        {"n": before.n, "network": before.network, "note": before.note},
        {"n": now.n, "network": now.network, "note": now.note},
    )
    return "; ".join([line, *others])


def unequal(a: list[Any], b: list[Any]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


def compare_costs(stored: Record, again: Record) -> tuple[list[str], list[str]]:
    """What was measured with a clock or of a machine, stored and now, one line each; and of these
    the ones that no machine of the same kind would give."""
    lines, far = [], []
    for name, least in MEASURED.items():
        a, b = stored.cost.get(name), again.cost.get(name)
        if a is None and b is None:
            continue
        line = f"{name}: stored {a}, now {b}"
        lines.append(line)
        if not (_number(a) and _number(b)):
            far.append(line)
        elif abs(a - b) > least and max(a, b) > FAR * max(min(a, b), 0):
            far.append(f"{line}: more than {FAR} times as much, on a machine of the same name")
    return lines, far


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def compare_pictures(store: Store, twin: Store) -> tuple[list[str], int]:
    """The differences between the arrays of `twin`, where cells were made again, and those that are
    stored, and the number of pictures that were compared: 0 where none are stored."""
    wrong, many = [], 0
    for path in sorted((twin.root / "samples").glob("*.safetensors")):
        before, now = (s.read_arrays(f"samples/{path.stem}") for s in (store, twin))
        if before is None or now is None:
            continue
        for name in sorted({*before[0], *now[0]}):
            a, b = before[0].get(name), now[0].get(name)
            if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
                wrong.append(
                    f"images of {name}: stored {None if a is None else a.shape}, now"
                    f" {None if b is None else b.shape}"
                )
                continue
            many += len(a) if "/" not in name else 0
            wrong += _unlike(name, a, b)
    return wrong, many


def _unlike(name: str, a: np.ndarray, b: np.ndarray) -> list[str]:
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return []
    if a.dtype != np.uint8 or a.ndim != 4:
        return [f"{name}: not what is stored"]
    far = np.abs(a.astype(np.int16) - b).reshape(len(a), -1).max(1)
    return [
        f"images of {name}: {int((far > 0).sum())} of {len(a)} differ, by at most"
        f" {int(far.max())} of 255"
    ]
