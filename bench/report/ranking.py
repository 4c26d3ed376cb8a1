"""The defenses of a run over its attacks, ranked among those that are given exactly the same."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.averages import fid_change, over_attacks
from t2i_backdoor_bench.report.metrics import BEFORE, LEAD, RELATIVE, shown_in
from t2i_backdoor_bench.report.numbers import known_by
from t2i_backdoor_bench.report.paired import difference, kid_change
from t2i_backdoor_bench.report.places import APART, TIE, Place, places
from t2i_backdoor_bench.report.quality import KEPT, Quality, gates_of, quality_of
from t2i_backdoor_bench.report.rows import one_protocol
from t2i_backdoor_bench.report.took_hold import counted
from t2i_backdoor_bench.report.worst import Worst, noticed, worst_of
from t2i_backdoor_bench.stats.estimates import Difference, Estimate

GROUPS = {
    "Oracle": "given the model from before the attack, which nobody has who has to defend one",
    "Trigger known": "given the trigger, which has to be found first",
    "Clean text encoder": "given the text encoder from before the attack, as the defender of a copy"
    " of a public base is",
    "Blind": "given neither the trigger nor the model from before the attack",
}
# a base that draws fewer of its prompts as asked has nothing that a defense could restore
LEAST_FIDELITY = 0.5


class Reason(NamedTuple):
    """Why a row has no rank."""

    short: str
    text: str


@dataclass(frozen=True)
class Summary:
    """One defense over the attacks that took hold and leave what it needs: `done` of `attacks`.
    `worst` is of those `under`, which keep their stealth. `place` is its place among the rows with
    the same needs, by `worst`; where it has none, `reasons` say why. `over_none` is by how much it
    restores more than the undefended model does, `at_worst` the same under that attack alone, and
    `robustness` what it changes of that."""

    defense: str
    needs: str
    knowledge: dict[str, int]  # how much of what can be counted it read
    done: int
    attacks: int
    means: dict[str, Estimate] = field(default_factory=dict)
    under: tuple[str, ...] = ()
    worst: Worst | None = None
    quality: Quality = field(default_factory=Quality)
    over_none: Difference | None = None
    at_worst: Difference | None = None
    robustness: Difference | None = None
    reasons: tuple[Reason, ...] = ()
    place: Place | None = None

    @property
    def group(self) -> str:
        return group_of(self.needs)


def group_of(needs: str) -> str:
    words = needs.split()
    if "clean_model" in words:
        return "Oracle"
    if "trigger" in words:
        return "Trigger known"
    return "Clean text encoder" if "clean_text_encoder" in words else "Blind"


def summaries(records: Sequence[Record]) -> list[Summary]:
    """Every defense: by needs (least first), then by rank; the undefended model is the first of
    all. Its means are those of the leaderboard's metrics, the fidelity before the attack, Restored
    relative to that, and `kid_change` (`fid_change` of the first protocol). Raises UserError for
    records of several protocols."""
    one_protocol(records)
    attacks = counted(records)
    cells: dict[str, list[Record]] = {}
    for r in sorted(records, key=lambda r: r.cell.defense != "none"):
        cells.setdefault(r.cell.defense, [])
        cells[r.cell.defense] += [r] if r.cell.attack in attacks else []
    needs = {r.cell.defense: " ".join(r.needs) for r in records}
    asked = {(needs[r.cell.defense], r.cell.attack) for r in records}
    lost = noticed(records)
    strong = [attack for attack in attacks if attack not in lost]
    ways = [way.name for way in shown_in("leaderboard", records)]
    metrics = list(dict.fromkeys([*ways, LEAD, BEFORE, RELATIVE, "fid"]))
    undefended = cells.get("none", [])
    gates, before = gates_of(undefended), fidelity_before(undefended)
    found = []
    for name, own in cells.items():
        faced = [attack for attack in attacks if (needs[name], attack) in asked]
        s = _summary(name, needs[name], own, undefended, len(faced), metrics)
        under = tuple(attack for attack in strong if attack in faced)
        s = replace(s, under=under, worst=worst_of(own, under))
        if name != "none":
            s = replace(s, at_worst=_at_worst(s, own, undefended))
            s = replace(s, quality=quality_of(own, undefended, faced, gates))
            s = replace(s, reasons=tuple(_why_not(s, before, records)))
        found.append(s)
    return _placed(found, cells)


def fidelity_before(undefended: Sequence[Record]) -> float | None:
    """The share of its prompts that the model before the attack draws as asked: what Restored can
    reach. Where no record says it, the undefended model's own share of clean prompts; None where
    neither was measured."""
    found = over_attacks(undefended, BEFORE) or over_attacks(undefended, "prompt_fidelity")
    return None if found is None else found.value


def _summary(
    defense: str,
    needs: str,
    own: Sequence[Record],
    undefended: Sequence[Record],
    attacks: int,
    metrics: Sequence[str],
) -> Summary:
    states: dict[str, set[str]] = {}
    for r in own:
        states.setdefault(r.cell.attack, set()).add(r.status)
    means = {m: over_attacks(own, m) for m in metrics}
    if defense != "none":
        old = all(r.measured_by == 1 for r in own)
        means["fid_change"] = fid_change([*undefended, *own], defense) if old else None
        means["kid_change"] = kid_change(own, undefended, attacks_fixed=True)
    changes = (
        {}
        if defense == "none"
        else {m: difference(own, undefended, m, attacks_fixed=True) for m in (LEAD, "robustness")}
    )
    return Summary(
        defense,
        needs,
        known_by(own),
        sum(found == {"done"} for found in states.values()),
        attacks,
        {m: e for m, e in means.items() if e is not None},
        over_none=changes.get(LEAD),
        robustness=changes.get("robustness"),
    )


def _at_worst(s: Summary, own: Sequence[Record], undefended: Sequence[Record]) -> Difference | None:
    """What a defense restores more than none does, under the attack that is strongest against
    it."""
    if s.worst is None:
        return None
    pair = ([r for r in rs if r.cell.attack == s.worst.attack] for rs in (own, undefended))
    return difference(*pair, LEAD)


def _why_not(s: Summary, before: float | None, records: Sequence[Record]) -> Iterator[Reason]:
    """Why a defense has no rank; nothing where it has one."""
    if "first_of" in records[0].protocol.get("evaluation", {}):
        yield Reason("a trial", "a trial (--limit) has no rank")
    if not s.attacks:
        yield Reason("no attack took hold", "no attack took hold")
    elif s.done < s.attacks:
        done = f"done on {s.done} of {s.attacks} attacks"
        yield Reason("not done on every attack", done)
    if LEAD not in s.means:
        yield Reason("not measured", "Restored was not measured")
        return
    if s.worst is None:
        yield Reason("no attack keeps its stealth", "no attack that took hold keeps its stealth")
    if before is not None and before < LEAST_FIDELITY:
        text = f"the model before the attack draws {100 * before:.0f} % of the prompts as asked"
        yield Reason("no verdict", f"no verdict below {100 * LEAST_FIDELITY:.0f} %: {text}")
    if s.over_none is None:
        yield Reason("not compared", "there is no undefended model to compare with")
    elif s.over_none.low is None or s.over_none.low <= 0:
        yield Reason("no better than none", "not shown to restore more than no defense does")
    elif s.at_worst is not None and (s.at_worst.low is None or s.at_worst.low <= 0):
        text = f"not shown to restore more than no defense does under {s.worst.attack}"
        yield Reason("no better than none at its worst", text)
    if s.over_none is not None and s.quality.verdict != KEPT:
        yield Reason(f"quality {s.quality.verdict}", f"quality {s.quality.text(records)}")


def _placed(found: Sequence[Summary], cells: Mapping[str, Sequence[Record]]) -> list[Summary]:
    """The summaries in their order, those that have one with their place among equal needs."""
    out = [s for s in found if s.defense == "none" or s.reasons]
    rest = [s for s in found if s.defense != "none" and not s.reasons]
    for needs in dict.fromkeys(s.needs for s in rest):
        # rounded: the order does not depend on a last bit
        rivals = sorted(
            (s for s in rest if s.needs == needs), key=lambda s: (*_least(s), s.defense)
        )
        worst = {s.defense: s.worst.attack for s in rivals}
        ranks = places([s.defense for s in rivals], cells, worst)
        out += [replace(s, place=place) for s, place in zip(rivals, ranks, strict=True)]

    def order(s: Summary) -> tuple[Any, ...]:
        rank = s.place.rank if s.place else len(found) + 1
        return (s.defense != "none", len(s.needs.split()), s.needs, rank, *_least(s))

    return sorted(out, key=order)


def _least(s: Summary) -> tuple[float, float]:
    """What rows are in order of: Worst, then the mean."""
    mean = s.means[LEAD].value if LEAD in s.means else -1.0
    return -round(s.worst.value if s.worst else -1.0, 9), -round(mean, 9)


class Leaders(NamedTuple):
    """The first of a group of equal needs, and after it the rows that are not told apart from the
    row above: one row is a winner, several share the first place or leave it open, and of none
    `why` says the reason. `ranked` counts the ranked rows of the group."""

    rows: tuple[Summary, ...]
    ranked: int = 0
    why: str = ""

    @property
    def winner(self) -> Summary | None:
        return self.rows[0] if len(self.rows) == 1 else None


def leaders(table: Sequence[Summary]) -> dict[str, Leaders]:
    """By needs the leaders of each group that has a ranked row."""
    groups: dict[str, list[Summary]] = {}
    for s in table:
        if s.place is not None:
            groups.setdefault(s.needs, []).append(s)
    return {
        needs: Leaders(
            (group[0], *itertools.takewhile(lambda s: s.place.verdict != APART, group[1:])),
            len(group),
        )
        for needs, group in groups.items()
    }


def winner(records: Sequence[Record], table: Sequence[Summary] | None = None) -> Leaders:
    """Who is named first wherever one is named: in the summary, the report, the leaderboard and the
    README. `table` are the records' summaries, where they are at hand.

    Rows of other needs are not compared. Named are the leaders of the group whose first has the
    largest Worst, over the attacks that the firsts of all groups have; where another group is given
    less and its first is tied with that one, its leaders; and a group that is given the model from
    before the attack only where no other has a ranked row.
    """
    table = summaries(records) if table is None else table
    groups = leaders(table)
    if not groups:
        return Leaders((), 0, _why_none([s for s in table if s.defense != "none"]))
    firsts = [group.rows[0] for group in groups.values()]
    firsts = [s for s in firsts if s.group != "Oracle"] or firsts
    common = [a for a in firsts[0].under if all(a in s.under for s in firsts)]
    own = {s.defense: [r for r in records if r.cell.defense == s.defense] for s in firsts}
    worst = {s.defense: worst_of(own[s.defense], common) or s.worst for s in firsts}
    best = max(firsts, key=lambda s: round(worst[s.defense].value, 9))
    by_given = sorted(firsts, key=lambda s: (-list(GROUPS).index(s.group), len(s.needs.split())))
    attacks, at = counted(records), {d: found.attack for d, found in worst.items()}
    cells = {d: [r for r in rs if r.cell.attack in attacks] for d, rs in own.items()}
    for s in by_given[: by_given.index(best)]:
        if places([best.defense, s.defense], cells, at)[1].verdict == TIE:
            return groups[s.needs]
    return groups[best.needs]


def _why_none(defenses: Sequence[Summary]) -> str:
    """Why no row is ranked, each row by its first reason."""
    if not defenses:
        return "nothing is defended"
    counts = Counter(s.reasons[0].short for s in defenses)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{short} ({n})" for short, n in counts.most_common())
