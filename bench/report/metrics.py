"""How metrics read: what they are called, which way is better, and which tables have them.

All of it comes from `register_metric`. New records carry it; for older ones the decorators of the
suite's own metrics are read, without importing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.contract.registry import TABLES

LEAD = "restoration_accuracy"  # the metric that ranks defenses
BEFORE = "fidelity_before"  # what LEAD can reach: the share that was as asked before the attack
RELATIVE = "restored_relative"  # LEAD as a share of that
SUCCESS = (
    "asr",
    "asr_own",
    "asr_paraphrase",
    "asr_unseen_words",
)  # what is bad for a defender is good for an attack


@dataclass(frozen=True)
class Reading:
    """How one metric reads. `tables` and `order` say where it is a column, as in the registry."""

    name: str
    better: str = "none"
    percent: bool = False
    title: str = ""
    short: str = ""
    group: str = "more"
    order: int = 85
    tables: tuple[str, ...] = TABLES
    about: str = ""
    figure: str = ""
    only: str = ""
    unit: bool = False

    @property
    def share(self) -> bool:
        """Whether its values are from 0 to 1."""
        return self.percent or self.unit


def _cost(name: str, short: str = "", better: str = "lower", order: int = 125) -> Reading:
    tables = ("attacks",) if short else ()
    return Reading(name, better, False, short or name, short or name, "cost", order, tables)


# Costs depend on the machine and its load; counts do not. No metric computes most of them.
COST = (
    "seconds",
    "seconds_attack",
    "seconds_per_step",
    "seconds_picture",
    "seconds_picture_before",
    "peak_memory_mb",
    "detection_ms",
)
COUNTS = ("parameters", "steps", "images", "parameters_attack", "steps_attack", "images_attack")
OF_THE_RUN = {name: _cost(name) for name in COST} | {
    name: _cost(name, better="none") for name in COUNTS
}
OF_THE_RUN |= {
    "parameters_attack": _cost("parameters_attack", "Parameters", "none", 121),
    "images_attack": _cost("images_attack", "Images", "none", 122),
    "seconds_attack": _cost("seconds_attack", "Seconds", order=125),
}

# metrics of protocol 1 that no longer exist: their records do not say how they read
RETIRED = {
    "fid_added": Reading(
        "fid_added",
        "lower",
        True,
        "FID that the attack adds",
        "FID added",
        "quality",
        55,
        ("attacks",),
        only="undefended",
    )
}


@cache
def _built_in() -> dict[str, Mapping[str, Any]]:
    return {metric.name: metric.facts for metric in listed("metric")}


def reading(records: Sequence[Record], metric: str) -> Reading:
    """How a metric reads: as a record says, and where none does, as it is registered."""
    stored = next((r.directions[metric] for r in records if metric in r.directions), {})
    known = (OF_THE_RUN | RETIRED).get(metric, Reading(metric))
    for facts in (_built_in().get(metric, {}), stored):
        names = {f.name for f in fields(Reading)} & set(facts)
        values = {k: tuple(facts[k]) if k == "tables" else facts[k] for k in names}
        known = replace(known, **values)
    title = known.title or metric
    return replace(known, title=title, short=known.short or title)


def metric_names(records: Sequence[Record]) -> list[str]:
    """Metrics of any record that are not costs, in the order of table.csv: the well-known first,
    then the others by name."""
    found = {name for r in records for name in r.directions} - {*COST, *COUNTS}
    ways = {name: reading(records, name) for name in found}
    first = [name for name in found if "csv" in ways[name].tables]
    return [*sorted(first, key=lambda name: ways[name].order), *sorted(found - set(first))]


def shown_in(table: str, records: Sequence[Record], lead: bool = False) -> list[Reading]:
    """The metrics of one of the tables, by their order; with `lead`, the leading one first."""
    names = [*metric_names(records), *(n for n in (*COST, *COUNTS))]
    ways = [reading(records, name) for name in names]
    found = [way for way in ways if table in way.tables]
    return sorted(found, key=lambda way: (lead and way.name != LEAD, way.order, way.name))
