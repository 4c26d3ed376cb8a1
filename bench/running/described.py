"""The settings of a run, read back from its `run.json`, which may be a stranger's."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base
from t2i_backdoor_bench.running.scales import SCALES, Scale
from t2i_backdoor_bench.running.settings import Config

MOST = 1024  # threads or workers of a run: torch ends where it is asked for millions


def read_config(manifest: Mapping[str, Any]) -> Config:
    """The settings that a manifest describes. Raises UserError where it describes none, or has
    settings that this version does not know."""
    try:
        asked = dict(manifest["config"])
        scale = _filled(Scale, dict(asked.pop("scale")))
        n = asked.pop("n")
        config = _filled(Config, asked | {"n": None if n == scale.n else n})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"run.json does not describe a run of this program ({error}): verify it with the"
            " version that made it"
        ) from None
    if not all(1 <= n <= MOST for n in (config.threads, config.workers) if n is not None):
        raise UserError(f"run.json asks for threads or workers that are not 1 to {MOST}")
    return dataclasses.replace(config, scale=scale)


def _filled(cls: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of JSON values; what they lack has its default. Raises TypeError."""
    hints = typing.get_type_hints(cls)
    if unknown := sorted(map(str, set(values) - set(hints))):
        raise TypeError(f"it has the settings {', '.join(unknown)}, which are not known here")
    return cls(**{name: _typed(name, value, hints[name]) for name, value in values.items()})


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A JSON value as the type of its field. Raises TypeError."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(name, part, typing.get_args(kind)[0]) for part in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"its setting {name} has another type")
    return value


def other_scale(scale: Scale) -> list[str]:
    """How a scale differs from the one that this program has by its name. Data may have fewer real
    images than a scale takes."""
    own = SCALES.get(scale.name)
    if own is None:
        return [f"the scale {scale.name} is none of this program: {', '.join(SCALES)}"]
    before, now = dataclasses.asdict(scale), dataclasses.asdict(own)
    return [
        f"the scale {scale.name}: {name} is {before[name]} in run.json, and {now[name]} here"
        for name in now
        if before[name] != now[name] and not (name == "real" and before[name] < now[name])
    ]


def not_here(config: Config) -> list[str]:
    """What a run names that is not on this machine's disk under its name: base, scorer, data."""
    base = find_base(config.base)
    named = {
        "base": base.source,
        "scorer": config.clip or base.scorer,
        "data": config.data.partition(",")[0].strip(),
    }
    return [f"the {k} {name}" for k, name in named.items() if name and not Path(name).exists()]
