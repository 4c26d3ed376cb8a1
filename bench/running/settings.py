"""What a user sets, under one set of names: flags, a YAML file, and the arguments of
`t2i_backdoor_bench.run` all become a `Config` here."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.running.scales import EXECUTORS, SCALES, STYLES, Scale


@dataclass(frozen=True)
class Config:
    """What the user asked for. `overrides` are "name.option=value"; `n`, `seeds` and `metrics` of
    None are the scale's."""

    attacks: str = "core"
    defenses: str = "skdcag,baseline"
    base: str = "shapes"
    scale: Scale = SCALES["quick"]
    seeds: tuple[int, ...] | None = None
    n: int | None = None
    metrics: str | None = None
    overrides: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    out: Path | None = None
    fresh: bool = False
    attention_maps: bool = False
    probe: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    workers: int | None = None
    executor: str = "local"
    gpu_share: float | None = None  # GPUs that a cell takes with the executor ray
    data: str = ""  # captioned images (`data.captioned`); the embedded world where empty
    clip: str = ""  # the scorer, where it is not the base's
    memory: tuple[str, ...] = ()  # ways to save memory (`models.catalog.MEMORY`)
    style: str = "full"

    @property
    def size(self) -> Scale:
        return self.scale if self.n is None else self.scale.resized(self.n)

    @property
    def folder(self) -> Path:
        return self.out or Path("results") / f"run-{self.scale.name}"


NAMES = {"overrides": "set", "sweeps": "sweep"}  # fields of Config that have another name outside
FIELDS = {NAMES.get(f.name, f.name.replace("_", "-")): f.name for f in dataclasses.fields(Config)}
KEYS = (*FIELDS, "suspect", "trigger")  # the last two are short for an attack and its options
SUSPECT, SUSPECT_METRICS = "suspect", "all,trigger_effect"
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def make_config(settings: Mapping[str, Any]) -> Config:
    """A Config of settings by name ("attention-maps" or "attention_maps"). Raises UserError for an
    unknown name or a wrong type."""
    given = {name.replace("_", "-"): value for name, value in settings.items()}
    for name in given:
        if name not in KEYS:
            raise UserError(f"unknown setting {name!r}; {suggest(name, KEYS, 'known')}")
    given = _suspect(given)
    hints = typing.get_type_hints(Config)
    values = {
        FIELDS[name]: _value(name, value, hints[FIELDS[name]]) for name, value in given.items()
    }
    for name in ("threads", "workers"):
        if values.get(name) is not None and values[name] < 1:
            raise UserError(f"--{name} {values[name]} must be 1 or more")
    return Config(**({"device": "auto"} | values))


def merge(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """A file's settings with the flags over them; `--set` adds to the file's, and wins for the same
    option."""
    flags = {name.replace("_", "-"): value for name, value in flags.items()}
    both = dict(settings) | flags
    if settings.get("set") and flags.get("set"):
        both["set"] = [*_texts("set", settings["set"]), *flags["set"]]
    return both


def _suspect(given: dict[str, Any]) -> dict[str, Any]:
    """`suspect` and `trigger` as what they are short for."""
    suspect, trigger = given.pop("suspect", False), given.pop("trigger", None)
    if not isinstance(suspect, bool):
        raise UserError(f"suspect must be true or false, not {suspect!r}")
    if not suspect:
        if trigger is not None:
            raise UserError(
                "--trigger goes with --suspect; the trigger of an attack is an option, such as"
                " --set badt2i_pixel.trigger=WORD"
            )
        return given
    if "attacks" in given:
        raise UserError("--suspect takes the base as it is, without an attack: leave out --attacks")
    options = [f"{SUSPECT}.trigger={trigger}"] if trigger is not None else []
    return (
        {"metrics": SUSPECT_METRICS}
        | given
        | {"attacks": SUSPECT, "set": [*_texts("set", given.get("set", ())), *options]}
    )


def _value(name: str, value: Any, kind: Any) -> Any:
    """One setting as the type of its field."""
    if name == "scale":
        if value not in SCALES:
            raise UserError(f"unknown scale {value!r}; {suggest(str(value), SCALES, 'known')}")
        return SCALES[value]
    for choice, known in (("style", STYLES), ("executor", EXECUTORS)):
        if name == choice and value not in known:
            raise UserError(f"unknown {choice} {value!r}; known: {', '.join(known)}")
    if name in ("set", "sweep"):
        return tuple(_texts(name, value))
    if name == "memory":
        return _ways(value)
    if name == "seeds":
        return _seeds(value)
    if name in ("attacks", "defenses", "metrics") and isinstance(value, (list, tuple)):
        value = ",".join(str(v) for v in value)
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return None
    if Path in kinds and isinstance(value, (str, Path)) and str(value):
        return Path(value)
    wanted = next(k for k in kinds if k is not type(None))
    value = (
        float(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool)
        else value
    )
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
        raise UserError(f"{name} must be {WORDS.get(wanted, wanted.__name__)}, not {value!r}")
    return value


def _ways(value: Any) -> tuple[str, ...]:
    """Ways to save memory, given as "checkpointing,slicing" or as a list."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) for p in parts):
        raise UserError(
            f"memory must be a list of ways such as checkpointing,slicing, not {value!r}"
        )
    return tuple(p.strip() for p in parts if p.strip())


def _texts(name: str, value: Any) -> list[str]:
    """ "name.option=value" texts, of such texts or of a mapping {"name.option": value}."""
    if isinstance(value, Mapping):
        return [f"{key}={_text(v)}" for key, v in value.items()]
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return list(value)
    raise UserError(
        f"{name} must be a mapping such as {{skdcag.steps: 200}} or a list of texts such as"
        f" skdcag.steps=200, not {value!r}"
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
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise UserError(f"seeds {value!r} is not a list of whole numbers such as 0,1,2")
    return found
