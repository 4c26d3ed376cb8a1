"""Which of several defenses that are given the same restores more, and which are tied?

Each row is compared with the one above it, on the same attacked models, prompts and noise. The
comparisons of a group are corrected for their number (Holm 1979). A tie has to be shown, too: that
two rows differ by less than a margin. What shows neither stays open.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.paired import difference, paired_p
from t2i_backdoor_bench.stats.estimates import Difference, equivalent, holm

ALPHA = 0.05  # of all comparisons of a group together, and of all attacks of one comparison
# Two points: what 2 of 100 pictures decide, and what the judges themselves may be wrong in
MARGIN = 0.02
APART, TIE, MIXED, OPEN = "apart", "tie", "mixed", "open"


@dataclass(frozen=True)
class Step:
    """From the row above to this one. `p` is corrected for the comparisons of the group, and
    `differs` counts the attacks, of all `attacks`, on which the two are told apart."""

    above: str
    difference: Difference | None
    p: float | None
    differs: int
    attacks: int

    @property
    def verdict(self) -> str:
        """TIE: the means are shown to differ by less than the margin, and no attack tells them
        apart. APART: the mean is shown to be lower, and not to be so by less than the margin.
        MIXED: neither, but attacks tell them apart. OPEN: nothing is shown."""
        if self.difference is None:
            return OPEN
        alike = equivalent(self.difference, MARGIN)
        if alike and not self.differs:
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


def places(ordered: Sequence[str], records: Mapping[str, Sequence[Record]]) -> list[Place]:
    """The places of defenses that are in order, the best first. `records` holds the cells of each,
    of the attacks that count. Only a tie shares the rank of the row above."""
    pairs = [(records[d], records[above], above) for above, d in itertools.pairwise(ordered)]
    found = [difference(ours, theirs, LEAD, attacks_fixed=True) for ours, theirs, _ in pairs]
    ps = [_both_tests(d, ours, theirs) for d, (ours, theirs, _) in zip(found, pairs, strict=True)]
    out = [Place(1)] if ordered else []
    for i, (pair, d, p) in enumerate(zip(pairs, found, _corrected(ps), strict=True)):
        by_attack = _attacks_apart(pair[0], pair[1])
        step = Step(pair[2], d, p, sum(by_attack.values()), len(by_attack))
        out.append(Place(out[-1].rank if step.verdict == TIE else i + 2, step))
    return out


def _both_tests(
    found: Difference | None, ours: Sequence[Record], theirs: Sequence[Record]
) -> float | None:
    """The larger p of Student's test of seeds and attacks and of McNemar's of pictures: the first
    takes a few equal seeds for certainty, the second knows nothing of training anew."""
    if found is None or found.p is None:
        return None
    pictures = paired_p(ours, theirs, LEAD)
    return found.p if pictures is None else max(found.p, pictures)


def _corrected(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of those that are known."""
    known = iter(holm([p for p in ps if p is not None]))
    return [None if p is None else next(known) for p in ps]


def _attacks_apart(ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, bool]:
    """By attack, whether the two are told apart there: both tests, with Holm's correction over the
    attacks, and not shown to differ by less than the margin."""
    ps: dict[str, float | None] = {}
    alike: dict[str, bool] = {}
    for attack in dict.fromkeys(r.cell.attack for r in ours):
        one, other = ([r for r in rs if r.cell.attack == attack] for rs in (ours, theirs))
        found = difference(one, other, LEAD)
        ps[attack] = _both_tests(found, one, other)
        alike[attack] = found is not None and equivalent(found, MARGIN)
    corrected = dict(zip(ps, _corrected(list(ps.values())), strict=True))
    return {a: p is not None and p < ALPHA and not alike[a] for a, p in corrected.items()}
