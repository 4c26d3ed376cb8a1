"""Which of several defenses that are given the same restores more, and which are tied?

Each row is compared with the one above it by what it restores under its worst attack, and attack by
attack, on the same prompts and noise. The comparisons of a group are corrected for their number
(Holm 1979). A tie has to be shown, too: that two rows differ by less than a margin. What shows
neither stays open.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.paired import corrected, difference, larger_p, paired_p
from t2i_backdoor_bench.stats.estimates import Difference, equivalent

ALPHA = 0.05  # of all comparisons of a group together, and of all attacks of one comparison
# Two points: what 2 of 100 pictures decide, and what the judges themselves may be wrong in
MARGIN = 0.02
APART, TIE, MIXED, OPEN = "apart", "tie", "mixed", "open"


@dataclass(frozen=True)
class Step:
    """From the row above to this one. `p` is corrected for the comparisons of the group, and
    `differs` counts the attacks, of all `attacks`, on which the two are told apart. `first` is the
    difference to the first row of the tie that the row above is in; None where that is the row
    above."""

    above: str
    difference: Difference | None
    p: float | None
    differs: int
    attacks: int
    first: Difference | None = None

    @property
    def verdict(self) -> str:
        """TIE: Worst is shown to differ by less than the margin, also from that of every row that
        shares the rank, and no attack tells them apart.
        APART: Worst is shown to be lower, and not to be so by less than the margin.
        MIXED: neither, but attacks tell them apart. OPEN: nothing is shown."""
        if self.difference is None:
            return OPEN
        alike = equivalent(self.difference, MARGIN)
        if alike and not self.differs and (self.first is None or equivalent(self.first, MARGIN)):
            return TIE
        if not alike and self.p is not None and self.p < ALPHA and self.difference.value < 0:
            return APART
        return MIXED if self.differs else OPEN


@dataclass(frozen=True)
class Place:
    """A rank, and the step from the row above; None for the first."""

    rank: int
    step: Step | None = None

    @property
    def verdict(self) -> str:
        """Of the step from the row above; the first is APART."""
        return self.step.verdict if self.step else APART

    @property
    def text(self) -> str:
        """ "1", "1 (tie)", "2 (open)" or "2 (mixed)"."""
        return f"{self.rank}{'' if self.verdict == APART else f' ({self.verdict})'}"


def places(
    ordered: Sequence[str], records: Mapping[str, Sequence[Record]], worst: Mapping[str, str]
) -> list[Place]:
    """The places of defenses that are in order, the best first. `records` holds the cells of each,
    of the attacks that count, and `worst` the attack that it is ranked by. Only a tie shares the
    rank of the row above."""

    def faced(one: str, other: str) -> tuple[list[Record], list[Record]]:
        return at_worst(records[one], records[other], worst[one], worst[other])

    steps = [(d, above) for above, d in itertools.pairwise(ordered)]
    found = [difference(*faced(*two), LEAD, attacks_fixed=True) for two in steps]
    ps = [larger_p(d, paired_p(*faced(*two), LEAD)) for d, two in zip(found, steps, strict=True)]
    out = [Place(1)] if ordered else []
    for i, ((name, above), d, p) in enumerate(zip(steps, found, corrected(ps), strict=True)):
        by_attack = _attacks_apart(records[name], records[above])
        leads = ordered[out[-1].rank - 1]
        first = (
            difference(*faced(name, leads), LEAD, attacks_fixed=True) if leads != above else None
        )
        step = Step(above, d, p, sum(by_attack.values()), len(by_attack), first)
        out.append(Place(out[-1].rank if step.verdict == TIE else i + 2, step))
    return out


def at_worst(
    ours: Sequence[Record], theirs: Sequence[Record], our_attack: str, their_attack: str
) -> tuple[list[Record], list[Record]]:
    """The cells of each side under its own worst attack, seed against seed. Where these are two
    attacks, the pictures of a seed are paired in their order. That is no pairing by prompt, and
    none is needed: the differences of independent pictures vary as their means do."""
    mine = [r for r in ours if r.cell.attack == our_attack]
    other = [r for r in theirs if r.cell.attack == their_attack]
    if our_attack != their_attack:  # of other weights, which is no reason to leave them out
        other = [replace(r, cell=replace(r.cell, attack=our_attack), provenance={}) for r in other]
    return mine, other


def _attacks_apart(ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, bool]:
    """By attack, whether the two are told apart there: both tests, with Holm's correction over the
    attacks, and not shown to differ by less than the margin."""
    ps: dict[str, float | None] = {}
    alike: dict[str, bool] = {}
    for attack in dict.fromkeys(r.cell.attack for r in ours):
        one, other = ([r for r in rs if r.cell.attack == attack] for rs in (ours, theirs))
        found = difference(one, other, LEAD)
        ps[attack] = larger_p(found, paired_p(one, other, LEAD))
        alike[attack] = found is not None and equivalent(found, MARGIN)
    every = dict(zip(ps, corrected(list(ps.values())), strict=True))
    return {a: p is not None and p < ALPHA and not alike[a] for a, p in every.items()}
