"""Options of methods: defaults by family of models, ranges, and what `--scale` shortens."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.errors import UserError

if TYPE_CHECKING:
    from numpy.random import Generator

SOURCES = ("paper", "released", "ours")  # of defaults
MAIN = ("steps", "lr", "batch", "rank", "ridge")  # the settings that are told in a sentence
EMBEDDED = "shapes"  # the family of the embedded base
LEAST = 16  # prompts or images that a scale with less training leaves a method
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its default.

    `defaults` has the defaults of the model families that have one of their own. A value must be at
    least `low`, at most `high`, larger than `above`, and one of `choices`, where these are given.
    `scales`: `--scale` multiplies a default that is larger than `least`, down to `least`; with the
    name of another option, only while the user sets neither. `source`: where the default for real
    families is from (`source_of`). `tune`: what the search of settings tries on the embedded base,
    a range or choices. `late`: the option was added to a method that has stored results, and its
    default is what the method did before; with this default it is no part of a cell's key.
    """

    defaults: Mapping[str, Any]
    help: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()
    scales: bool | str = False
    least: int = 1
    source: str = "ours"
    tune: tuple[Any, ...] = ()
    late: bool = False

    @property
    def allowed(self) -> str:
        """The range in words, such as "0 to 1"; "" where any value is allowed."""
        if self.choices:
            return ", ".join(str(choice) or "nothing" for choice in self.choices)
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        ends = [(self.above, "above {:g}"), (self.low, "{:g} or more"), (self.high, "{:g} or less")]
        return ", ".join(text.format(end) for end, text in ends if end is not None)

    def source_of(self, family: str) -> str:
        """Where the default for a family is from: the paper, the authors' released code, or ours.
        `source` is said of the real families. A family that has a default of its own besides
        theirs, as the embedded base has nearly always, has it from us."""
        return "ours" if family == EMBEDDED and self.defaults else self.source

    def check_tune(self) -> None:
        """Raise ValueError for a range that cannot be searched."""
        if not self.tune:
            return
        if self.choices:
            if strange := [value for value in self.tune if value not in self.choices]:
                raise ValueError(f"tune={self.tune!r}: {strange} are not among {self.choices!r}")
            return
        if len(self.tune) != 2 or not self.tune[0] < self.tune[1]:
            raise ValueError(f"tune={self.tune!r} is not a range (low, high) with low < high")
        try:
            for end in self.tune:
                self.check("tune", end)
        except UserError as error:
            raise ValueError(str(error)) from None

    def check(self, name: str, value: Any) -> None:
        """Raise UserError for a value that is out of range."""
        if self.choices:
            if value not in self.choices:
                raise UserError(f"{name} is {value!r}; choose one of: {self.allowed}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high, above = (
                end if given is None else given
                for given, end in (
                    (self.low, -math.inf),
                    (self.high, math.inf),
                    (self.above, -math.inf),
                )
            )
            if not math.isfinite(value):
                raise UserError(f"{name} is {value}; give a finite number")
            if not (low <= value <= high and value > above):
                raise UserError(f"{name} is {value:g}; it must be {self.allowed}")
        elif isinstance(value, (list, tuple)):
            for one in value:
                self.check(name, one)


def option(
    default: Any,
    *,
    help: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Iterable[Any] = (),
    scales: bool | str = False,
    least: int = 1,
    source: str = "ours",
    tune: Iterable[Any] = (),
    late: bool = False,
    **defaults: Any,
) -> Any:
    """A dataclass field that is an option.

        steps: int = option(220, sd=7500, low=1, scales=True, source="paper")

    `default` is for the embedded base, `sd=7500` for Stable Diffusion; a further family has a
    keyword of its own. `Option` describes the rest.
    """
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is not one of {', '.join(SOURCES)}")
    known = tuple(choices)
    found = Option(
        defaults, help, low, high, above, known, scales, least, source, tuple(tune), late
    )
    found.check_tune()
    return dataclasses.field(default=default, metadata={"option": found})


def options_of(cls: type) -> dict[str, tuple[dataclasses.Field, Option]]:
    """The options of a method by name; a plain field counts as an option without a range."""
    fields = [f for f in dataclasses.fields(cls) if f.init]
    return {f.name: (f, f.metadata.get("option", Option({}))) for f in fields}


def family_defaults(cls: type, family: str) -> dict[str, Any]:
    """The defaults of a class for a family of models."""
    found = {n: o.defaults.get(family, f.default) for n, (f, o) in options_of(cls).items()}
    return {n: v for n, v in found.items() if v is not dataclasses.MISSING}


def settings_from(cls: type, family: str = "sd") -> dict[str, list[str]]:
    """The main settings of a method by where their defaults for a family are from, in the order of
    the options."""
    found: dict[str, list[str]] = {}
    for name, (_, known) in options_of(cls).items():
        if name in MAIN:
            found.setdefault(known.source_of(family), []).append(name)
    return found


def check_values(name: str, cls: type, values: Mapping[str, Any]) -> None:
    """Raise UserError, naming method and option, for a value that has another type than its field
    or is out of range."""
    hints = typing.get_type_hints(cls)
    for key, (_, found) in options_of(cls).items():
        if key in values:
            value, kind = values[key], hints[key]
            right = (int, float) if kind is float else (kind,)
            if kind in WORDS and (
                not isinstance(value, right) or (isinstance(value, bool) and kind is not bool)
            ):
                raise UserError(f"{name}.{key} is {value!r}; it must be {WORDS[kind]}")
            found.check(f"{name}.{key}", value)


def typed(name: str, cls: type, key: str, value: Any) -> Any:
    """One value that a user gave, read as the type of its field. Raises UserError for an option
    that does not exist, and for a text that is no such value."""
    known = options_of(cls)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or sorted(known)
        raise UserError(f"{name} has no option {key!r}; it has {', '.join(near) or 'none'}")
    kind = typing.get_type_hints(cls)[key]
    if not isinstance(value, str) or kind is str:
        return value
    try:
        if kind is bool:
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            return words[value.lower()]
        if kind is int:
            return int(value)
        if kind is float:
            return float(value)
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            return tuple(inner(v) for v in value.replace("x", ",").split(","))
    except (ValueError, KeyError):
        raise UserError(f"{name}.{key} is {value!r}; it must be {WORDS.get(kind, kind)}") from None
    raise UserError(f"{name}.{key} cannot be set from the command line: its type is {kind}")


def drawn(option: Option, rng: Generator) -> Any:
    """One value of the range that a search of settings has for an option: a choice, a whole number
    where both ends are, or a number, on a logarithmic scale where the ends are ten times apart or
    more. Two significant digits."""
    if option.choices or isinstance(option.tune[0], bool):
        return option.tune[rng.integers(len(option.tune))]
    low, high = option.tune
    if isinstance(low, int) and isinstance(high, int):
        return int(rng.integers(low, high + 1))
    if low > 0 and high / low >= 10:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        value = rng.uniform(low, high)
    return min(max(float(f"{value:.2g}"), low), high)


# what an attacker or a defender has, not how long it trains
DATA = ("images", "prompts", "pool")


def scaled(instance: Any, given: Iterable[str], training: float) -> Any:
    """A method with every option that scales multiplied by `training`, except for those that the
    user gave. Raises UserError where the scaled options no longer go together."""
    given, changed = set(given), {}
    for name, (_, found) in options_of(type(instance)).items():
        value = vars(instance)[name]
        own = name in given or (isinstance(found.scales, str) and found.scales in given)
        if training != 1 and found.scales and not own and value > found.least:
            changed[name] = max(found.least, round(value * training))
    if not changed:
        return instance
    instance = dataclasses.replace(instance, **changed)
    instance.check()
    return instance
