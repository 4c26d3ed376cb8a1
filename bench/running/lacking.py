"""The defenses that need what an attack leaves nobody."""

from __future__ import annotations

from t2i_backdoor_bench.contract import NEEDS
from t2i_backdoor_bench.running.method import Method


def lacking(attack: Method, defense: tuple[Method, ...]) -> tuple[str, ...]:
    """What a defense needs and this attack leaves nobody: an attack whose instance has `withheld`
    (of a checkpoint whose history is not known there is no clean model) has no cell with such a
    defense."""
    withheld = set(attack.instance.withheld)
    return tuple(
        n for n in NEEDS if n in withheld and any(n in part.entry.needs for part in defense)
    )


def left_out(
    attacks: dict[str, Method], defenses: dict[str, tuple[Method, ...]]
) -> dict[str, tuple[str, ...]]:
    """The defenses that have no cell, and why."""
    found = {}
    for name, parts in defenses.items():
        lacks = [lacking(attack, parts) for attack in attacks.values()]
        if all(lacks):
            found[name] = lacks[0]
    return found
