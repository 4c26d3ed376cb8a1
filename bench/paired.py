"""What two defenses, or a defense and none, do to the same prompts drawn from the same noise."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from bench import stats
from bench.types import Record

TIE = 0.05  # McNemar's p from which on two defenses are not told apart


def paired_p(row: Sequence[Record], against: Sequence[Record], metric: str) -> float | None:
    """McNemar's p of two defenses on the same prompts and noise, over the attacks and seeds that both have."""
    ours, theirs = (
        {(r.cell.attack, r.cell.seed): r.scores[metric].each for r, _ in rs if r.status == "done" and metric in r.scores}
        for rs in (row, against)
    )
    keys = [k for k in sorted(ours) if ours[k] and theirs.get(k) and len(ours[k]) == len(theirs[k])]
    if not keys:
        return None
    a, b = (np.concatenate([np.asarray(side[k], bool) for k in keys]) for side in (ours, theirs))
    return float(stats.mcnemar(a, b))


def paired_in(records: Sequence[Record], one: str, other: str, metric: str) -> float | None:
    """`paired_p` of two defenses, by name."""
    return paired_p(*([r for r in records if r[0].cell.defense == name] for name in (one, other)), metric)


def changes(row: Sequence[Record], undefended: Sequence[Record], metric: str) -> dict[int, float]:
    """By seed that both have, by what share a metric of a defended model is above that of the attacked one (0.02: two percent)."""
    ours, theirs = (
        {r.cell.seed: r.scores[metric].value for r, _ in rs if r.status == "done" and metric in r.scores} for rs in (row, undefended)
    )
    return {s: v / theirs[s] - 1 for s, v in sorted(ours.items()) if v is not None and theirs.get(s)}


def reference(records: Sequence[Record]) -> str:
    """The defense that the others are tested against: skdcag, or else the first that does something."""
    names = list(dict.fromkeys(r.cell.defense for r, _ in records))
    swept = [n for n in names if n.startswith("skdcag[")]
    return "skdcag" if "skdcag" in names else next(iter([*swept, *(n for n in names if n != "none")]), "")


def rival(defense: str, versus: str, names: Collection[str]) -> str:
    """Whom a row is tested against: `versus`, or for a swept method its variant with the same value ("skd[steps=50]" against
    "skdcag[steps=50]")."""
    match = re.fullmatch(r"[^\[+]+(\[.+\])", defense)
    same = f"{versus.split('[')[0]}{match[1]}" if match else ""
    return same if same in names and same != defense else versus
