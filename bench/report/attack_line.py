"""What the protocol says of the attacks of a table: trigger, poison, evaluation, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record

FACTS = ("trigger_kind", "poison_share", "evaluates_with", "settings_by")
NAMED = 3  # attacks that are named; of more, their number is said


def attack_columns(records: Sequence[Record]) -> dict[str, Any]:
    """The facts of an attack as columns of table.csv; None where no record says it."""
    found = next((r.attack for r in records if r.attack), {})
    return {name: found.get(name) for name in FACTS}


def attack_line(records: Sequence[Record]) -> str:
    """Trigger kinds, poison shares, what the papers evaluate with and who chose the settings, in
    sentences; "" where no record says it, as in older ones."""
    told: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.attack:
            told.setdefault(record.cell.attack, record.attack)
    if not told:
        return ""
    shares = {
        attack: "no training" if share is None else f"{100 * share:.3g} %"
        for attack, share in ((a, facts.get("poison_share")) for a, facts in told.items())
    }
    return (
        f"Triggers: {_grouped({a: str(f.get('trigger_kind', '?')) for a, f in told.items()})}."
        f" Share of the training with the trigger: {_grouped(shares)}. The attacks' papers evaluate"
        f" with: {_grouped({a: str(f.get('evaluates_with', '?')) for a, f in told.items()})}."
        " Settings of the attacks by:"
        f" {_grouped({a: str(f.get('settings_by', '?')) for a, f in told.items()})}. "
    )


def _grouped(values: Mapping[str, str]) -> str:
    """Each value with its attacks; the value alone where all attacks share it."""
    by_value: dict[str, list[str]] = {}
    for attack, value in values.items():
        by_value.setdefault(value, []).append(attack)
    if len(by_value) == 1:
        return next(iter(by_value))
    names = {
        v: ", ".join(a) if len(a) <= NAMED else f"{len(a)} attacks" for v, a in by_value.items()
    }
    return "; ".join(f"{value} ({name})" for value, name in names.items())
