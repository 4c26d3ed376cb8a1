"""What a user sets, under one set of names: flags, a YAML file, and the arguments of
`t2i_backdoor_bench.run` all become a `Config` here."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.running.scales import SCALES, Scale
from t2i_backdoor_bench.running.setting_values import texts_of, value_of
from t2i_backdoor_bench.running.short_settings import SHORT, spelled_out


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
    limit: float | None = None  # a trial: the first prompts alone, or a share of them below 1
    metrics: str | None = None
    overrides: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    out: Path | None = None
    fresh: bool = False
    renew: bool = False
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
    # how pictures are drawn, where it is not as the base is drawn (`models.catalog.sampled`)
    steps: int | None = None
    guidance: float | None = None
    scheduler: str = ""
    memory: tuple[str, ...] = ()  # ways to save memory (`models.catalog.MEMORY`)
    style: str = "full"
    checkpoint_every: float = 60.0  # seconds between two checkpoints of a training
    models: tuple[str, ...] = ()  # what is taken over the base (`models.published`)
    save_models: tuple[str, ...] = ()  # "attacked", "repaired": what to hand out of every cell
    time_limit: float | None = None  # seconds after which no further cell is begun
    track: tuple[str, ...] = ()  # who is told of the run (`running.trackers`)
    controls: bool = False  # beside the defenses, those that cost nothing (`running.controls`)

    @property
    def size(self) -> Scale:
        whole = self.scale if self.n is None else self.scale.resized(self.n)
        return whole if self.limit is None else whole.limited(self.limit)

    @property
    def folder(self) -> Path:
        return self.out or Path("results") / f"run-{self.scale.name}"


NAMES = {
    "overrides": "set",
    "sweeps": "sweep",
    "models": "model",
}  # fields of Config that have another name outside
FIELDS = {NAMES.get(f.name, f.name.replace("_", "-")): f.name for f in dataclasses.fields(Config)}
KEYS = (*FIELDS, *SHORT)
MOST = {"n": 1_000_000, "threads": 4096, "workers": 4096, "steps": 10_000}
MOST_GPUS = 1024


def make_config(settings: Mapping[str, Any]) -> Config:
    """A Config of settings by name ("attention-maps" or "attention_maps"). Raises UserError for an
    unknown name or a wrong type."""
    given = {name.replace("_", "-"): value for name, value in settings.items()}
    for name in given:
        if name not in KEYS:
            raise UserError(f"unknown setting {name!r}; {suggest(name, KEYS, 'known')}")
    given = spelled_out(given)
    hints = typing.get_type_hints(Config)
    values = {
        FIELDS[name]: value_of(name, value, hints[FIELDS[name]]) for name, value in given.items()
    }
    for name, most in MOST.items():
        value = values.get(name)
        if value is not None and not 1 <= value <= most:
            wanted = "1 or more" if value < 1 else f"{most:,} or less"
            raise UserError(f"--{name} {value} must be {wanted}")
    share = values.get("gpu_share")
    if share is not None and not 0 < share <= MOST_GPUS:
        raise UserError(f"--gpu-share {share} must be above 0, and {MOST_GPUS} or less")
    every = values.get("checkpoint_every")
    if every is not None and not 0 <= every < math.inf:
        raise UserError("--checkpoint-every is a number of seconds, 0 or more")
    limit = values.get("limit")
    if limit is not None and not (0 < limit < 1 or (1 <= limit < math.inf and limit == int(limit))):
        raise UserError(f"--limit {limit:g} must be a whole number, or a share between 0 and 1")
    guidance = values.get("guidance")
    if guidance is not None and not 0 <= guidance < math.inf:
        raise UserError(f"--guidance {guidance:g} must be 0 or more; 0 and 1 are none")
    return Config(**({"device": "auto", "dtype": "auto"} | values))


def merge(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """A file's settings with the flags over them; `--set` adds to the file's, and wins for the same
    option."""
    flags = {name.replace("_", "-"): value for name, value in flags.items()}
    both = dict(settings) | flags
    if settings.get("set") and flags.get("set"):
        both["set"] = [*texts_of("set", settings["set"]), *flags["set"]]
    return both
