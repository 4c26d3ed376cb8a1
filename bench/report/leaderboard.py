"""`leaderboard.md`: the defenses in three groups, by what they were given, and in each by how much
they restore without loss of quality.

Rows of different groups are not competitors. A defense is ranked where clean prompts are drawn as
well as without it: for every attack its FID, CLIP score and prompt fidelity are no worse than the
end of the undefended model's own 95 % interval. Ties are told by McNemar's test on the same prompts
and noise, all attacks and seeds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.findings import findings
from t2i_backdoor_bench.report.formats import escape, markdown
from t2i_backdoor_bench.report.main_table import caption
from t2i_backdoor_bench.report.metrics import LEAD, Reading, reading, shown_in
from t2i_backdoor_bench.report.numbers import DASH, interval, needs_text, p_text, shown
from t2i_backdoor_bench.report.paired import TIE, paired_in
from t2i_backdoor_bench.report.ranking import Summary, summaries
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.stats.estimates import Estimate
from t2i_backdoor_bench.store import provenance

GROUPS = {
    "Oracle": "given the model from before the attack, which nobody has who has to defend one",
    "Trigger known": "given the trigger",
    "Blind": "given neither the trigger nor the model from before the attack",
}
NAMED = 3
# columns that are there even where nothing was measured
ALWAYS = (LEAD, "removal_accuracy", "false_trigger_rate", "fid", "clip_score", "seconds")
HOW = (
    "Means over the attacks. Quality is kept where, for every attack, FID, CLIP score and"
    " prompt fidelity of clean prompts are no worse than the end of the undefended model's"
    " own 95 % interval, as far as it has one; others are shown and not ranked, nor is"
    " what has not run on every attack. FID change: against the undefended model, same"
    " prompts and noise, interval over seeds; where a defense refuses prompts, FID is of"
    " the pictures that are left, and of fewer it is higher. p: McNemar's test of Restored"
    " against the first of the group, same prompts and noise. It takes the pictures of all"
    " attacks and seeds as independent, so that it speaks of these attacked models and not"
    f" of others; a tie is what it does not tell apart (p >= {TIE:g}), and without a p"
    " there was nothing to pair. Seconds are of the machines that made the rows."
)


def group_of(needs: str) -> str:
    words = needs.split()
    if "clean_model" in words:
        return "Oracle"
    return "Trigger known" if "trigger" in words else "Blind"


@dataclass(frozen=True)
class Place:
    """A defense in its group: its place ("1", "1 (tie)", or a dash where it is not ranked) and p
    against the first."""

    summary: Summary
    place: str
    p: float | None

    @property
    def quality(self) -> str:
        lost = self.summary.lost
        if not lost:
            return "not measured" if lost is None else "kept"
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        return f"lost: {', '.join(lost[:NAMED])}{more}"


def ranked(records: Sequence[Record]) -> dict[str, list[Place]]:
    """Of each group its defenses, those without loss of quality first, by Restored."""
    every = [s for s in summaries(records) if s.defense != "none" and LEAD in s.means]
    found: dict[str, list[Place]] = {}
    for name in GROUPS:
        rivals = [s for s in every if group_of(s.needs) == name]
        rivals.sort(key=lambda s: (s.done < s.attacks, s.lost != [], -s.means[LEAD].value))
        first, places = rivals[0].defense if rivals else "", []
        for i, s in enumerate(rivals):
            p = paired_in(records, s.defense, first, LEAD) if i else None
            tie = p is not None and p >= TIE
            counts = s.done == s.attacks and s.lost == []
            places.append(Place(s, DASH if not counts else "1 (tie)" if tie else str(i + 1), p))
        found[name] = places
    return {name: group for name, group in found.items() if group}


def tables(records: Sequence[Record]) -> list[Table]:
    """One table a group."""
    groups = ranked(records)
    means = [found.summary.means for group in groups.values() for found in group]
    measured = {m for each in means for m in each} | set(ALWAYS)
    ways = {way.name: way for way in shown_in("leaderboard", records)}
    ways |= {m: reading(records, m) for m in ALWAYS}
    shown_ways = [way for m, way in ways.items() if m in measured]
    shown_ways.sort(key=lambda way: (way.name != LEAD, way.order, way.name))
    heads = tuple(_columns(shown_ways))
    return [
        Table(
            heads,
            tuple(Row(tuple(_cells(found, shown_ways))) for found in group),
            name,
            f"{GROUPS[name].capitalize()}.",
        )
        for name, group in groups.items()
    ]


def _columns(ways: Sequence[Reading]) -> list[Column]:
    heads = [Column(""), Column("Defense", numeric=False), Column("Needs", numeric=False)]
    for way in ways:
        heads.append(Column(way.short, "%" if way.percent else "", name=way.name))
        if way.name == "removal_accuracy":
            heads.append(Column("Worst", numeric=False))
        if way.name == "fid":
            heads.append(Column("FID change", "%"))
    return [*heads, Column("Quality", numeric=False), Column("p")]


def _cells(found: Place, ways: Sequence[Reading]) -> list[Cell]:
    s = found.summary
    cells = [Cell(found.place), Cell(s.defense), Cell(needs_text(s.needs))]
    for way in ways:
        cells.append(mean_of(s, way))
        if way.name == "removal_accuracy":
            cells.append(Cell(f"{100 * s.worst[1]:.1f}, {s.worst[0]}" if s.worst else DASH))
        if way.name == "fid":
            cells.append(change(s.means.get("fid_change")))
    return [*cells, Cell(found.quality), Cell(p_text(found.p))]


def mean_of(summary: Summary, way: Reading) -> Cell:
    """A mean over the attacks; the leading metric with its interval."""
    found = summary.means.get(way.name)
    if found is None:
        return Cell(DASH)
    if way.name == "seconds":
        return Cell(f"{found.value:.1f}", found.value)
    ends = interval(found.low, found.high, way.percent) if way.name == LEAD else None
    return Cell(shown(found.value, way.percent), found.value, ends)


def change(found: Estimate | None) -> Cell:
    """ "+0.0 [-2.5, +2.6]", in percent."""
    if found is None:
        return Cell(DASH)
    ends = (
        (f"{100 * found.low:+.1f}", f"{100 * found.high:+.1f}") if found.low is not None else None
    )
    return Cell(f"{100 * found.value:+.1f}", found.value, ends)


def to_markdown(records: Sequence[Record]) -> str:
    """leaderboard.md; "" where no defenses are compared."""
    found = tables(records)
    if not found:
        return ""
    undefended = next((s for s in summaries(records) if s.defense == "none"), None)
    means = undefended.means if undefended is not None else {}
    ways = [reading(records, m) for m in ("fid", "clip_score") if m in means]
    kept = [f"{escape.markdown(w.short)} {shown(means[w.name].value, False)}" for w in ways]
    warning = provenance.warning(records)
    parts = [
        "# Leaderboard",
        *map(escape.markdown, findings(records)[:1]),
        *map(markdown.write, found),
        *([f"Undefended: {', '.join(kept)}."] if kept else []),
        HOW,
        escape.markdown(caption(records, marked=False)),
        *([escape.markdown(warning)] if warning else []),
    ]
    return markdown.page(parts)
