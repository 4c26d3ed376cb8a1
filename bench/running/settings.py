"""What a user sets, under one set of names: flags, a YAML file, and the arguments of `bench.run`
all become a `Config` here."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.running.plan import EXECUTORS, SCALES, STYLES, Config

NAMES = {"overrides": "set", "sweeps": "sweep"}  # fields of Config that have another name outside
FIELDS = {NAMES.get(f.name, f.name.replace("_", "-")): f.name for f in dataclasses.fields(Config)}
EXTRA = ("suspect", "trigger")  # short for an attack and its options
KEYS = (*FIELDS, *EXTRA)
ONCE = ("fresh",)  # not part of what repeats a run
SUSPECT, SUSPECT_METRICS = "suspect", "all,trigger_effect"


class StrictLoader(yaml.SafeLoader):
    """safe_load that refuses a key which is given twice."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = next((str(k) for i, k in enumerate(keys) if k in keys[:i]), None)
    if twice is not None:
        raise UserError(f"line {node.start_mark.line + 1}: {twice} is given twice")
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a file, with the names of the flags. Raises UserError, naming the file."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)  # a SafeLoader
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, UserError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {error.problem}" if mark else str(error)
        raise UserError(f"--config {path} is not YAML that can be used: {where}") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise UserError(
            f"--config {path} must hold names and values, such as 'attacks: badt2i_pixel'"
        )
    return found


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
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "a text",
            Path: "a path",
        }
        raise UserError(f"{name} must be {words.get(wanted, wanted.__name__)}, not {value!r}")
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


def to_yaml(config: Config, resolved: Mapping[str, Any]) -> str:
    """The file that repeats a run: what was set, and with `resolved` the names and seeds that were
    meant by it."""
    found: dict[str, Any] = {}
    for name, field in FIELDS.items():
        value = resolved.get(name, getattr(config, field))
        value = (
            value.name
            if name == "scale"
            else (
                str(value)
                if isinstance(value, Path)
                else list(value)
                if isinstance(value, tuple)
                else value
            )
        )
        if name not in ONCE and value not in (None, [], False, ""):
            found[name] = value
    if found.get("set"):
        found["set"] = {
            text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in found["set"]
        }
    head = "# python run_bench.py --config run.yaml\n"
    return head + yaml.safe_dump(
        found, sort_keys=False, allow_unicode=False, width=120, default_flow_style=None
    )
