"""Registers attacks, defenses and metrics, finds them, and selects them by name.

A method is one file with one decorated dataclass:

    @register_defense("my_defense", groups=("removal",), needs=("trigger",))
    @dataclass
    class MyDefense(Defense):
        steps: int = option(100, sd=1000, low=1, scales=True)
        def apply(self, model, view, seed): ...

Other packages do it by entry points: `t2i_backdoor_bench.attacks`, `.defenses`, `.metrics`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from t2i_backdoor_bench.contract.errors import UserError
from t2i_backdoor_bench.contract.fidelity import Difference, summary
from t2i_backdoor_bench.contract.methods import Attack, Defense, Method, Metric
from t2i_backdoor_bench.contract.names import label, names_of, parts_of, read
from t2i_backdoor_bench.contract.options import EMBEDDED, check_values, family_defaults, typed
from t2i_backdoor_bench.contract.plugged import plugged
from t2i_backdoor_bench.contract.tuned import Tuned, tuned
from t2i_backdoor_bench.contract.view import NEEDS

FAMILIES = (EMBEDDED, "sd")
BETTER = ("higher", "lower", "none")
# Where a metric may be shown: table.md and table.tex, the same where nothing is defended, the
# leaderboard, the report's heat maps, matrix.md with its figures, and the plots of sweeps.
TABLES = ("main", "attacks", "leaderboard", "heat", "matrix", "sweep")
SHOWN = ("title", "short", "group")  # how tables, plots and the report call a metric


@dataclass(frozen=True)
class Entry:
    """A registered method: its class, its groups, and what the core and the tables must know."""

    name: str
    cls: type[Method]
    groups: tuple[str, ...] = ()
    preset: dict[str, Any] = field(default_factory=dict)  # option values that this name fixes
    sources: Mapping[str, str] = field(default_factory=dict)  # where these are from (`SOURCES`)
    tuned: dict[str, Any] = field(default_factory=dict)  # its own defaults on the embedded base
    declared: dict[str, Any] = field(default_factory=dict)  # those before the search of settings
    tried: int = 0  # of how many settings these were chosen (`contract.tuned`)
    version: int = 0  # a part of the keys of cells; 0: no part
    paper: str = ""  # keys of contract/references.bib, or a BibTeX entry
    apart: bool = False  # not in the group "all": it runs only where it is named
    ours: str = ""  # what of it is ours and in no paper, in words; "": it is its paper's
    differs: tuple[Difference, ...] = ()  # where it is not what its paper or its code is, and why
    not_on: Mapping[str, str] = field(default_factory=dict)  # a family of models: why not there

    # attacks
    edits: str = ""  # what it changes, in words
    evaluates: str = ""  # what its paper evaluates with: "captions", "a prompt of its own", ...
    settings: str = ""  # who chose its options for Stable Diffusion, where they do not say it
    own: bool = False  # its paper evaluates on prompts of its own (`Backdoor.own`)
    sets: tuple[str, ...] = ()  # and on what it claims to fire or not to fire (`Backdoor.sets`)
    adapter: bool = False  # what it makes is an adapter, apart from the weights

    # defenses
    needs: tuple[str, ...] = ()  # what its view gives
    gives: tuple[str, ...] = ()  # what the defenses behind it in a composition need not be given
    screens: bool = False  # it refuses prompts
    locates: bool = False  # it finds the trigger in a prompt
    undefended: bool = False  # it does nothing

    # metrics
    better: str = "none"  # "higher", "lower" or "none"
    percent: bool = False  # it is a share, shown in percent
    unit: bool = False  # it is from 0 to 1 and not shown in percent
    title: str = ""  # what it is called in a sentence or a heading
    short: str = ""  # its name over a column
    group: str = ""  # what it is about: "backdoor", "quality", "cost", ...
    order: int = 85  # its place among the columns
    tables: tuple[str, ...] = TABLES  # which tables and plots have it; table.csv has every metric
    about: str = ""  # what its values mean, in a sentence
    figure: str = ""  # the file name of its heat map; "": its name
    only: str = ""  # measured only for attacks, defenses or runs with this flag (`flags`)
    draws: tuple[str, ...] = ()  # conditions that are drawn for this metric alone
    weights: str = ""  # the environment variable that names the published weights it needs

    @property
    def doc(self) -> str:
        return self.cls.__doc__ or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring, led by what of it is ours."""
        return summary(self.doc, self.ours)

    @property
    def flags(self) -> set[str]:
        """What a metric's `only` can ask for."""
        flags = ("own", "adapter", "screens", "locates", "undefended")
        return {name for name in flags if vars(self)[name]} | set(self.sets)

    @property
    def reading(self) -> dict[str, Any]:
        """How a metric is read, as records store it."""
        found = {"better": self.better, "percent": self.percent}
        more = {"only": self.only, "title": self.title, "short": self.short, "group": self.group}
        more |= {"about": self.about, "figure": self.figure, "unit": self.unit}
        found |= {"order": self.order, "tables": list(self.tables)}
        return found | {k: v for k, v in more.items() if v}


class Registry:
    """Names of one kind ("attack", "defense", "metric") and the classes behind them."""

    def __init__(self, kind: str, base: type[Method]) -> None:
        self.kind, self.base = kind, base
        self.entries: dict[str, Entry] = {}
        self.compositions: dict[str, tuple[str, tuple[str, ...]]] = {}  # name -> "a+b", groups
        self._loaded = False

    @property
    def package(self) -> str:
        """Where the methods of this suite are."""
        return f"t2i_backdoor_bench.{self.kind}s"

    def register(
        self, name: str, *, groups: Iterable[str] = (), **facts: Any
    ) -> Callable[[type], type]:
        """A decorator; `facts` are fields of `Entry`.

        Raises ValueError for a name that a class of another place has. The same class defined
        again, as in a notebook, replaces the earlier one. Raises TypeError for what is no dataclass
        or not derived from the base class.
        """

        def add(cls: type) -> type:
            earlier = self.entries.get(name)
            if earlier and _place(earlier.cls) != _place(cls):
                module = earlier.cls.__module__
                raise ValueError(f"{self.kind} {name!r} is already registered by {module}")
            if name in self.compositions:
                raise ValueError(f"{self.kind} {name!r} is already the name of a composition")
            if not dataclasses.is_dataclass(cls):
                raise TypeError(f"{self.kind} {name!r} must be a dataclass: its fields are options")
            if not issubclass(cls, self.base):
                base = self.base.__name__
                raise TypeError(
                    f"{self.kind} {name!r} must be a subclass of t2i_backdoor_bench.contract.{base}"
                )
            chosen = tuned(self.kind, name) if cls.__module__.startswith(self.package) else Tuned()
            entry = Entry(name, cls, tuple(groups), **facts, tried=chosen.settings)
            defaults = {**entry.tuned, **chosen.options}
            self.entries[name] = replace(entry, tuned=defaults, declared=entry.tuned)
            return cls

        return add

    def compose(self, name: str, parts: str, groups: Iterable[str] = ()) -> None:
        """Give the composition "a+b" a name; it belongs to `groups` and to "all"."""
        if name in self.entries or name in self.compositions:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self.compositions[name] = (parts, tuple(groups))

    def load(self) -> None:
        """Import every module of the kind's package and every installed entry point, once."""
        if self._loaded:
            return
        self._loaded = True
        self.load_own()
        plugged(f"{self.kind}s")

    def load_own(self) -> None:
        """Import every module of the kind's package."""
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{package.__name__}.{module}")

    @property
    def groups(self) -> dict[str, list[str]]:
        self.load()
        named = [(n, e.groups) for n, e in self.entries.items()] + list(self.compositions.values())
        apart = {n for n, e in self.entries.items() if e.apart}
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
        """The names that "a,group,b[x=1]+c" stands for, in this order and without repeats. Named
        compositions become their parts. Raises UserError for an unknown name."""
        names: list[str] = []
        for part in names_of(text):
            if part in self.groups:
                names += self.groups[part]
            else:
                pieces = "+".join(self.compositions.get(p, (p,))[0] for p in parts_of(part))
                variants = [read(piece) for piece in parts_of(pieces)]
                for name, _ in variants:
                    self.get(name)
                names.append("+".join(label(*variant) for variant in variants))
        if not names:
            raise UserError(f"no {self.kind} named; known: {', '.join(self.groups['all'])}")
        return list(dict.fromkeys(names))

    def build(self, name: str, family: str, overrides: dict[str, Any] | None = None) -> Any:
        """An instance with the family's defaults, then the name's own values, then the user's
        overrides. Raises UserError for an option that does not exist, a value out of range, and
        options that do not go together."""
        entry = self.get(name)
        if family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(f"unknown model family {family!r}; known: {known}")
        values = family_defaults(entry.cls, family) | entry.preset
        values |= entry.tuned if family == EMBEDDED else {}
        for key, value in (overrides or {}).items():
            values[key] = typed(name, entry.cls, key, value)
        check_values(name, entry.cls, values)
        instance = entry.cls(**values)
        instance.check()
        return instance


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    """What the user may have meant: near names, or all names where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"{otherwise}: {', '.join(known)}"


attacks = Registry("attack", Attack)
defenses = Registry("defense", Defense)
metrics = Registry("metric", Metric)


def register_attack(name: str, *, groups: Iterable[str] = (), **facts: Any) -> Callable:
    """Register an attack. `facts`: the fields of `Entry` for attacks and for all methods."""
    return attacks.register(name, groups=groups, **facts)


def register_defense(
    name: str, *, needs: Iterable[str] = (), groups: Iterable[str] = (), **facts: Any
) -> Callable:
    """Register a defense. `needs` lists what its view gives.

    `gives=("trigger",)` says that it sets `T2IModel.located`: defenses behind it in a composition
    get that trigger. The flags `screens` and `locates` say which metrics it has. A `version` (also
    of attacks and metrics) is a part of its cells' keys: raise it when the method computes other
    numbers than before, so that stored cells are made again.
    """
    return defenses.register(name, groups=groups, needs=ordered_needs(name, needs), **facts)


def ordered_needs(name: str, needs: Iterable[str]) -> tuple[str, ...]:
    """`needs` in the order of NEEDS. Raises ValueError for one that is not known."""
    given = set(needs)
    if unknown := sorted(given - set(NEEDS)):
        raise ValueError(f"defense {name!r} needs {unknown}; known needs: {', '.join(NEEDS)}")
    return tuple(need for need in NEEDS if need in given)


def register_metric(
    name: str,
    *,
    better: str,
    percent: bool = False,
    title: str = "",
    short: str = "",
    group: str = "",
    **facts: Any,
) -> Callable:
    """Register a metric. `better` is "higher", "lower" or "none". Tables, plots and the report are
    made from `title`, `short` and `group` alone (without: from the name). `tables` (a part of
    `TABLES`) and `order` say where it stands; without them it stands everywhere, behind the
    suite's own."""
    if better not in BETTER:
        raise ValueError(f"metric {name!r}: better must be higher, lower or none, not {better!r}")
    facts |= shown(name, title, short, group)
    return metrics.register(name, better=better, percent=percent, **facts)


def shown(name: str, title: str, short: str, group: str) -> dict[str, str]:
    """How tables, plots and the report call a metric, with defaults for what is not given."""
    return {"title": title or name, "short": short or title or name, "group": group or "more"}
