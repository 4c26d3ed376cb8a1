"""One setting at a time: what a user gave, as the type of its field."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.running.scales import EXECUTORS, SAVED, SCALES, STYLES, TRACKERS

LARGEST_SEED, MOST_SEEDS = 2**32 - 1, 1000
NUMBER = r"(\d+(?:\.\d+)?)"
UNITS = re.compile(f"(?:{NUMBER}d)?(?:{NUMBER}h)?(?:{NUMBER}m)?(?:{NUMBER}s?)?", re.ASCII)
LONG = (86400, 3600, 60, 1)  # seconds of each unit
CLOCK = re.compile(r"\d+(:\d\d){1,2}", re.ASCII)  # minutes and seconds, or with hours
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def value_of(name: str, value: Any, kind: Any) -> Any:
    """One setting as the type of its field."""
    if name == "scale":
        if not isinstance(value, str) or value not in SCALES:
            raise UserError(
                f"unknown scale {_short(value)}; {suggest(str(value), SCALES, 'known')}"
            )
        return SCALES[value]
    for choice, known in (("style", STYLES), ("executor", EXECUTORS)):
        if name == choice and value not in known:
            raise UserError(f"unknown {choice} {value!r}; known: {', '.join(known)}")
    if name in ("set", "sweep"):
        return tuple(texts_of(name, value))
    if name == "data" and isinstance(value, Mapping):
        return _named_with_options(value)
    if name in LISTS:
        return LISTS[name](value)
    if name in ("attacks", "defenses", "metrics") and isinstance(value, (list, tuple)):
        value = ",".join(str(v) for v in value)
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return None
    if Path in kinds and isinstance(value, (str, Path)):
        if str(value).strip() and str(value).isprintable():
            return Path(value)
        raise UserError(f"{name} must be a path, not {_short(value)}")
    wanted = next(k for k in kinds if k is not type(None))
    value = (
        float(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool)
        else value
    )
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
        raise UserError(f"{name} must be {WORDS.get(wanted, wanted.__name__)}, not {_short(value)}")
    return value


def _named_with_options(value: Mapping[Any, Any]) -> str:
    """Data given as {name: FOLDER, split: train, ...}, as the text that `--data` takes."""
    rest = {str(k): _text(v) for k, v in value.items() if k != "name" and v is not False}
    wrong = [k for k, v in rest.items() if "," in k + v]
    if not isinstance(value.get("name"), str) or wrong:
        raise UserError(
            f"data must have a name, and options without commas, not {_short(dict(value))}"
        )
    parts = ["stream" if (k, v) == ("stream", "true") else f"{k}={v}" for k, v in rest.items()]
    return ",".join([value["name"], *parts])


def _ways(value: Any) -> tuple[str, ...]:
    """Ways to save memory, given as "checkpointing,slicing" or as a list."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) for p in parts):
        raise UserError(
            f"memory must be a list of ways such as checkpointing,slicing, not {_short(value)}"
        )
    return tuple(p.strip() for p in parts if p.strip())


def _saved(value: Any) -> tuple[str, ...]:
    """Which models are saved, given as "attacked,repaired" or as a list."""
    found = _ways(value) if isinstance(value, (str, list, tuple)) else ("",)
    if wrong := [kind for kind in found if kind not in SAVED]:
        raise UserError(f"save-models {wrong[0]!r} is not one of {', '.join(SAVED)}")
    return found


def _trackers(value: Any) -> tuple[str, ...]:
    """Who is told of a run, given as "tensorboard,wandb" or as a list."""
    found = _ways(value) if isinstance(value, (str, list, tuple)) else ("",)
    if wrong := [name for name in found if name not in TRACKERS]:
        raise UserError(f"track {wrong[0]!r} is not one of {', '.join(TRACKERS)}")
    return tuple(dict.fromkeys(found))


def _seconds(value: Any) -> float | None:
    """A time given as seconds, as "90m", "2h" or "1h30m", or as "1:30:00"."""
    if value is None:
        return None
    text = "" if isinstance(value, bool) else str(value).strip()
    found, seconds = UNITS.fullmatch(text), math.nan
    if found and text:
        seconds = sum(float(n or 0) * many for n, many in zip(found.groups(), LONG, strict=True))
    elif CLOCK.fullmatch(text):
        seconds = sum(60**i * float(n) for i, n in enumerate(reversed(text.split(":"))))
    if not 0 < seconds < math.inf:
        raise UserError(
            f"time-limit {_short(value)} is no time: give seconds, or a time such as 90m, 2h,"
            " 1h30m or 1:30:00"
        )
    return seconds


def _paths(value: Any) -> tuple[str, ...]:
    """Paths with their options, given as one text or as a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(
        isinstance(t, str) and t.strip() and t.isprintable() for t in texts
    ):
        raise UserError(f"model must be a path, or a list of paths, not {_short(value)}")
    return tuple(texts)


def texts_of(name: str, value: Any) -> list[str]:
    """ "name.option=value" texts, of such texts or of a mapping {"name.option": value}."""
    if isinstance(value, Mapping):
        return [f"{key}={_text(v)}" for key, v in value.items()]
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return list(value)
    raise UserError(
        f"{name} must be a mapping such as {{skdcag.steps: 200}} or a list of texts such as"
        f" skdcag.steps=200, not {_short(value)}"
    )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_text(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _seeds(value: Any) -> tuple[int, ...] | None:
    """Seeds given as "0,1,2", as a list, or as one number."""
    if value is None:
        return None
    parts = (
        value.split(",")
        if isinstance(value, str)
        else value
        if isinstance(value, (list, tuple))
        else [value]
    )
    try:
        found = tuple(dict.fromkeys(int(str(p)) for p in parts if str(p).strip()))
    except (ValueError, RecursionError):
        found = ()
    if not found or min(found) < 0 or max(found) > LARGEST_SEED or len(found) > MOST_SEEDS:
        raise UserError(
            f"seeds {_short(value)} is not a list of whole numbers such as 0,1,2 (at most"
            f" {MOST_SEEDS}, up to {LARGEST_SEED})"
        )
    return found


def _short(value: Any) -> str:
    """A value in an error's line, which may be of any length."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


LISTS = {
    "model": _paths,
    "memory": _ways,
    "save-models": _saved,
    "seeds": _seeds,
    "time-limit": _seconds,
    "track": _trackers,
}
