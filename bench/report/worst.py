"""Worst: what a defense restores under the strongest attack, of those that keep their stealth. An
attack that its users notice proves nothing against a defense."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.averages import over_attacks
from t2i_backdoor_bench.report.marks import doubted
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.stealth import LIMITS, stealth
from t2i_backdoor_bench.stats.estimates import Estimate


class Worst(NamedTuple):
    """The attack under which a defense restores least, and how much it restores there; whether a
    judge disagrees with the pixels there (`marks`)."""

    attack: str
    restored: Estimate
    doubted: bool = False

    @property
    def value(self) -> float:
        return self.restored.value


def worst_of(cells: Sequence[Record], attacks: Collection[str]) -> Worst | None:
    """Of the cells of one defense, the worst of these attacks; None where none was measured."""
    found = []
    for attack in attacks:
        own = [r for r in cells if r.cell.attack == attack]
        restored = over_attacks(own, LEAD)
        doubts = any(LEAD in metrics for metrics in doubted(own).values())
        found += [] if restored is None else [Worst(attack, restored, doubts)]
    return min(found, key=lambda worst: round(worst.value, 9), default=None)


def noticed(records: Sequence[Record]) -> dict[str, list[str]]:
    """By attack that loses its stealth, what of it: "false triggers" or "quality" of the undefended
    model. What was not measured counts as kept, and decoys do not count: that a part of a phrase
    fires is no harm to those who do not know the phrase."""
    table = rows([r for r in records if r.cell.defense == "none"])
    lost = {row["attack"]: [w for w in stealth(row) if w != "decoys"] for row in table}
    return {attack: what for attack, what in lost.items() if what}


def left_out_text(records: Sequence[Record], attacks: Collection[str]) -> str:
    """A sentence that lists those of `attacks` that are out of Worst; "" where none is."""
    lost = noticed(records)
    found = [f"{a} ({', '.join(lost[a])})" for a in attacks if a in lost]
    return f"Not in Worst, as they lose their stealth: {', '.join(found)}. {LIMITS}" * bool(found)
