"""Registers attacks, defenses and metrics, finds them, selects them by name, and builds them with
overrides.

A method is one file with one decorated dataclass:

    @register_defense("my_defense", groups=("removal",), needs=("trigger",))
    @dataclass
    class MyDefense:
        steps: int = option(100, sd=1000)
        def apply(self, model, view, seed): ...

Third parties register through the entry points `t2i_backdoor_bench.attacks`, `.defenses` and
`.metrics` of their own package.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from t2i_backdoor_bench.contract.names import label, names_of, parts_of, read
from t2i_backdoor_bench.contract.types import NEEDS, UserError

FAMILIES = ("shapes", "sd")


@dataclass(frozen=True)
class Entry:
    """A registered method: its class, the groups it belongs to, and what the table says of it."""

    name: str
    cls: type
    groups: tuple[str, ...] = ()
    preset: dict[str, Any] = field(default_factory=dict)  # option values that this name fixes
    tuned: dict[str, Any] = field(default_factory=dict)  # its own defaults on the embedded base
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return (self.cls.__doc__ or "").strip().split("\n")[0]


class Registry:
    """Names of one kind ("attack", "defense", "metric") and the classes behind them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.entries: dict[str, Entry] = {}
        self.compositions: dict[str, tuple[str, tuple[str, ...]]] = {}  # name -> "a+b", groups
        self._loaded = False

    def register(
        self,
        name: str,
        *,
        groups: Iterable[str] = (),
        preset: dict | None = None,
        tuned: dict | None = None,
        **info: Any,
    ) -> Callable[[type], type]:
        """Decorator. A name that is taken raises. `preset` fixes option values, so that variants of
        a method have names of their own; `tuned` are a variant's own defaults on the embedded base,
        where its best are not those of its class.
        """

        def add(cls: type) -> type:
            if name in self.entries:
                raise ValueError(
                    f"{self.kind} {name!r} is already registered by"
                    f" {self.entries[name].cls.__module__}"
                )
            if name in self.compositions:
                raise ValueError(f"{self.kind} {name!r} is already the name of a composition")
            if not dataclasses.is_dataclass(cls):
                raise TypeError(
                    f"{self.kind} {name!r} must be a dataclass: its fields are its options"
                )
            self.entries[name] = Entry(
                name, cls, tuple(groups), dict(preset or {}), dict(tuned or {}), info
            )
            return cls

        return add

    def compose(self, name: str, parts: str, groups: Iterable[str] = ()) -> None:
        """Give the composition "a+b" a name that stands for it, and put it into groups and into
        "all". A name that is taken raises."""
        if name in self.entries or name in self.compositions:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self.compositions[name] = (parts, tuple(groups))

    def load(self) -> None:
        """Import every module of the kind's package and every installed entry point, once."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(f"t2i_backdoor_bench.{self.kind}s")
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{package.__name__}.{module}")
        for point in entry_points(group=f"t2i_backdoor_bench.{self.kind}s"):
            try:
                point.load()
            except Exception as error:
                package = point.dist.name if point.dist else "an installed package"
                told = str(error).strip().splitlines() or [""]
                raise UserError(
                    f"the {self.kind} {point.name!r} of {package} cannot be loaded"
                    f" ({type(error).__name__}: {told[0]}); repair or remove {package}"
                ) from error

    @property
    def groups(self) -> dict[str, list[str]]:
        self.load()
        named = [(n, e.groups) for n, e in self.entries.items()] + list(self.compositions.values())
        apart = {n for n, e in self.entries.items() if e.info.get("apart")}
        found: dict[str, list[str]] = {"all": [name for name, _ in named if name not in apart]}
        for name, groups in named:
            for group in groups:
                found.setdefault(group, []).append(name)
        return found

    def get(self, name: str) -> Entry:
        self.load()
        if name not in self.entries:
            known = [*self.entries, *self.compositions, *self.groups]
            raise UserError(f"unknown {self.kind} {name!r}; {suggest(name, known, 'known')}")
        return self.entries[name]

    def select(self, text: str) -> list[str]:
        """Expand "a,group,b[x=1]+c" to names in the order given, without repeats, and named
        compositions to their parts. Every part of a composition must be known."""
        names: list[str] = []
        for part in names_of(text):
            if part in self.groups:
                names += self.groups[part]
            else:
                pieces = "+".join(
                    self.compositions.get(piece, (piece,))[0] for piece in parts_of(part)
                )
                variants = [read(piece) for piece in parts_of(pieces)]
                for name, _ in variants:
                    self.get(name)
                names.append("+".join(label(*variant) for variant in variants))
        if not names:
            raise UserError(f"no {self.kind} named; known: {', '.join(self.groups['all'])}")
        return list(dict.fromkeys(names))

    def build(self, name: str, family: str, overrides: dict[str, Any] | None = None) -> Any:
        """An instance with the family's defaults, the name's own values and the user's overrides,
        in that order."""
        entry = self.get(name)
        values = (
            family_defaults(entry.cls, family)
            | entry.preset
            | (entry.tuned if family == "shapes" else {})
        )
        for key, value in (overrides or {}).items():
            values[key] = _typed(entry, key, value)
        return entry.cls(**values)


def suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    """What the user may have meant: near names, or else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"{otherwise}: {', '.join(known)}"


def option(shapes: Any, sd: Any = dataclasses.MISSING, help: str = "", late: bool = False) -> Any:
    """A dataclass field with one default a model family: tuned for the embedded base, and published
    for Stable Diffusion.

    `late` marks an option that was added to a method with stored results and whose default is what
    the method did before: while it has its default it is no part of a cell's key, and the results
    stay valid.
    """
    metadata = {
        "sd": shapes if sd is dataclasses.MISSING else sd,
        "shapes": shapes,
        "help": help,
        "late": late,
    }
    return dataclasses.field(default=shapes, metadata=metadata)


def family_defaults(cls: type, family: str) -> dict[str, Any]:
    if family not in FAMILIES:
        raise ValueError(f"unknown model family {family!r}; known: {', '.join(FAMILIES)}")
    return {
        f.name: f.metadata[family]
        for f in dataclasses.fields(cls)
        if f.init and family in f.metadata
    }


def _typed(entry: Entry, key: str, value: Any) -> Any:
    """Check and convert one override, given as text or as a value, by the field's annotation."""
    hints = typing.get_type_hints(entry.cls)
    fields = {f.name for f in dataclasses.fields(entry.cls) if f.init}
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=3, cutoff=0.4) or sorted(fields)
        raise UserError(f"{entry.name} has no option {key!r}; it has {', '.join(near)}")
    kind = hints[key]
    if not isinstance(value, str) or kind is str:
        return value
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                value.lower()
            ]
        if kind is int:
            return int(value)
        if kind is float:
            return float(value)
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            return tuple(inner(v) for v in value.replace("x", ",").split(","))
    except (ValueError, KeyError):
        raise UserError(
            f"{entry.name}.{key} must be {getattr(kind, '__name__', kind)}, not {value!r}"
        ) from None
    raise UserError(f"{entry.name}.{key} cannot be set from the command line (its type is {kind})")


attacks, defenses, metrics = Registry("attack"), Registry("defense"), Registry("metric")


def register_attack(
    name: str, *, groups: Iterable[str] = (), preset: dict[str, Any] | None = None, **info: Any
) -> Callable:
    """Register an attack: a dataclass with `inject(model, data, seed) -> T2IModel` and
    `backdoor(model) -> Backdoor`. With `apart=True`, of any kind, the group "all" leaves it out: it
    runs where it is named."""
    return attacks.register(name, groups=groups, preset=preset, **info)


def register_defense(
    name: str,
    *,
    needs: Iterable[str] = (),
    groups: Iterable[str] = (),
    preset: dict | None = None,
    tuned: dict | None = None,
    **info: Any,
) -> Callable:
    """Register a defense: a dataclass with `apply(model, view, seed) -> T2IModel`; `needs` is what
    its view will hold.

    `gives=("trigger",)` says that it sets `T2IModel.located`, which the view of the defenses behind
    it in a composition then holds as the trigger. The flags `screens` and `locates` say what
    metrics it has. A `version` (here and for attacks and metrics) is a part of its cells' keys:
    raise it when the method computes other numbers than before, and stored ones are made again.
    """
    needs = (
        tuple(n for n in NEEDS if n in set(needs))
        if set(needs) <= set(NEEDS)
        else _bad_needs(name, needs)
    )
    return defenses.register(name, groups=groups, preset=preset, tuned=tuned, needs=needs, **info)


def _bad_needs(name: str, needs: Iterable[str]) -> tuple[str, ...]:
    raise ValueError(
        f"defense {name!r} needs {sorted(set(needs) - set(NEEDS))}; known needs: {', '.join(NEEDS)}"
    )


def register_metric(name: str, *, better: str, percent: bool = False, **info: Any) -> Callable:
    """Register a metric: a dataclass with `compute(samples, features) -> Score`; `better` is
    "higher", "lower" or "none"."""
    if better not in ("higher", "lower", "none"):
        raise ValueError(f"metric {name!r}: better must be higher, lower or none, not {better!r}")
    return metrics.register(name, better=better, percent=percent, **info)
