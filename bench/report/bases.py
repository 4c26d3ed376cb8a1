"""One comparison of runs of the same methods on several base models: do the attacks take hold on
each, what do the defenses restore there, and do the bases agree on which defense is better?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.report.averages import by_attack_and_seed, over_attacks
from t2i_backdoor_bench.report.formats import csv, markdown, terminal
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.numbers import DASH, interval, shown
from t2i_backdoor_bench.report.pooling import pool
from t2i_backdoor_bench.report.rows import one_protocol
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table, plain_table
from t2i_backdoor_bench.report.took_hold import took_hold
from t2i_backdoor_bench.stats.estimates import Estimate, rank_correlation
from t2i_backdoor_bench.store.atomic import storing, write_text

Runs = Mapping[str, Sequence[Record]]  # by base
# no repairs: the same order on every base by what they are, so that they would only raise a tau
CONTROLS = ("none", "strip_trigger", "stock_text_encoder", "clean_model", "noise_weights")
CONTROLS += ("refuse_all", "vocabulary")
HELD = "†"


def publish_bases(runs: Runs, folder: Path, show: bool = True) -> None:
    """bases.md and bases.csv in `folder`; `show` also prints the tables. Raises UserError where
    the records are of several protocols, or the folder cannot be written."""
    one_protocol([record for records in runs.values() for record in records])
    if empty := [base for base, records in runs.items() if not records]:
        raise UserError(f"there is no finished cell on {', '.join(empty)}")
    tables = [attacks_table(runs), defenses_table(runs), agreement_table(runs)]
    title = f"# {', '.join(runs)}: the same attacks and defenses"
    with storing(folder):
        write_text(folder / "bases.md", markdown.page([title, *map(markdown.write, tables)]))
        write_text(folder / "bases.csv", csv.write(plain_table(values(runs))))
    for table in tables if show else ():
        terminal.write(table, table.caption)
    if show:
        print(f"{folder}: bases.md, bases.csv, and a run folder for each base")


def attacks_of(runs: Runs) -> list[str]:
    """The attacks of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(r.cell.attack for rs in runs.values() for r in rs))


def defenses_of(runs: Runs) -> list[str]:
    """The defenses, likewise."""
    return list(dict.fromkeys(r.cell.defense for rs in runs.values() for r in rs))


def undefended(records: Sequence[Record], attack: str) -> Estimate | None:
    """The attack success on one base without a defense; None where it was not measured."""
    cells = [r for r in records if (r.cell.attack, r.cell.defense) == (attack, "none")]
    found = pool([r.scores["asr"] for r in cells if r.status == "done" and "asr" in r.scores])
    return None if found.value is None else Estimate(found.value, found.low, found.high)


def common(runs: Runs) -> list[str]:
    """The attacks that took hold on every base."""
    held = [took_hold(records) for records in runs.values()]
    return [a for a in attacks_of(runs) if all(h.get(a, "missing") == "" for h in held)]


def restored(runs: Runs, base: str, defense: str) -> Estimate | None:
    """The mean of Restored over the attacks that took hold on every base; None where the defense
    was not measured under each of them."""
    attacks = common(runs)
    own = [r for r in runs[base] if r.cell.defense == defense and r.cell.attack in attacks]
    whole = {r.cell.attack for r in own if r.status == "done" and LEAD in r.scores}
    return over_attacks(own, LEAD) if whole and whole == set(attacks) else None


def agreement(runs: Runs, one: str, other: str) -> tuple[Estimate | None, list[str]]:
    """Kendall's tau between the defenses' Restored on two bases, over the attacks that took hold on
    every base; and the defenses that it is of."""
    attacks, cells = common(runs), {}
    for base in (one, other):
        for defense in defenses_of(runs):
            own = [r for r in runs[base] if r.cell.defense == defense and r.cell.attack in attacks]
            values = by_attack_and_seed(own, LEAD)
            whole = len(values) == len(attacks) and all(r.status == "done" for r in own)
            if attacks and whole and defense not in CONTROLS:
                flat = {
                    a: np.concatenate([*map(np.atleast_1d, s.values())]) for a, s in values.items()
                }
                cells.setdefault(defense, {})[base] = flat
    both = {d: by_base for d, by_base in cells.items() if len(by_base) == 2}
    if len(both) < 3:
        return None, list(both)
    ours, theirs = ({d: by_base[base] for d, by_base in both.items()} for base in (one, other))
    return rank_correlation(ours, theirs), list(both)


def attacks_table(runs: Runs) -> Table:
    """Attack success without a defense: a row for each attack, a column for each base."""
    rows = []
    for attack in attacks_of(runs):
        cells = [Cell(attack, attack)]
        for records in runs.values():
            mark = HELD if took_hold(records).get(attack) else ""
            cells.append(_cell(undefended(records, attack), True, mark))
        rows.append(Row(tuple(cells)))
    caption = f"ASR without a defense, 95 % intervals. {HELD}: did not take hold on this base."
    return Table(_columns("Attack", runs, "%"), tuple(rows), "Attacks", caption=caption)


def defenses_table(runs: Runs) -> Table:
    """Restored of each defense on each base, over the attacks that took hold on all of them."""
    rows = []
    for defense in defenses_of(runs):
        found = [_cell(restored(runs, base, defense), True) for base in runs]
        rows.append(Row((Cell(defense, defense), *found)))
    attacks = common(runs)
    over = f"the attacks that took hold on every base: {', '.join(attacks)}"
    caption = f"Restored, mean over {over}; 95 % intervals for attacks like these."
    if not attacks:
        caption = "No attack took hold on every base, so that nothing can be compared."
    return Table(_columns("Defense", runs, "%"), tuple(rows), "Defenses", caption=caption)


def agreement_table(runs: Runs) -> Table:
    """The rank correlation of the defenses for each pair of bases."""
    columns = ("Bases", "Kendall's tau", "95 % interval", "Defenses", "Attacks")
    rows, attacks = [], common(runs)
    for one, other in itertools.combinations(runs, 2):
        tau, defenses = agreement(runs, one, other)
        ends = interval(tau.low, tau.high, False) if tau else None
        texts = [f"{one}, {other}", shown(tau.value if tau else None, False)]
        texts += [
            f"{ends[0]} to {ends[1]}" if ends else DASH,
            str(len(defenses)),
            str(len(attacks)),
        ]
        rows.append(Row(tuple(map(Cell, texts))))
    caption = (
        "Kendall's tau between the Restored of the defenses on two bases: 1 is the same order, -1"
        " the reverse. Without the controls, whose order is known beforehand. The"
        " interval draws attacks and pictures anew, and speaks of these defenses; ties and noise"
        " pull tau towards 0."
    )
    heads = tuple(Column(title, numeric=title in columns[3:]) for title in columns)
    return Table(heads, tuple(rows), "Do the bases agree?", caption=caption)


def values(runs: Runs) -> list[dict[str, Any]]:
    """All of it as plain values, for bases.csv."""
    rows = []

    def add(what: str, name: str, base: str, other: str, found: Estimate | None, n: int) -> None:
        value, low, high = found or (None, None, None)
        row = {"what": what, "name": name, "base": base, "other_base": other, "value": value}
        rows.append(row | {"low": low, "high": high, "of": n})

    for base, records in runs.items():
        for attack in attacks_of(runs):
            add("asr", attack, base, "", undefended(records, attack), 1)
        for defense in defenses_of(runs):
            add(LEAD, defense, base, "", restored(runs, base, defense), len(common(runs)))
    for one, other in itertools.combinations(runs, 2):
        tau, defenses = agreement(runs, one, other)
        add("kendall_tau", "", one, other, tau, len(defenses))
    return rows


def _columns(first: str, runs: Runs, unit: str) -> tuple[Column, ...]:
    return Column(first, numeric=False), *(Column(base, unit) for base in runs)


def _cell(found: Estimate | None, percent: bool, mark: str = "") -> Cell:
    if found is None:
        return Cell(DASH)
    ends = interval(found.low, found.high, percent)
    return Cell(f"{shown(found.value, percent)}{mark}", found.value, ends)
