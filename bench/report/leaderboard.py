"""`leaderboard.md`: a table for each kind of needs, in it the defenses by how much they restore.

Rows that are given other things are not competitors. What is ranked, and what is a tie, is said in
`ranking` and `places`.
"""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import worst
from t2i_backdoor_bench.report.findings import findings, given
from t2i_backdoor_bench.report.formats import escape, markdown
from t2i_backdoor_bench.report.main_table import caption
from t2i_backdoor_bench.report.marks import by_defense, marked, note
from t2i_backdoor_bench.report.metrics import BEFORE, LEAD, RELATIVE, Reading, reading, shown_in
from t2i_backdoor_bench.report.numbers import DASH, interval, needs_text, p_text, shown
from t2i_backdoor_bench.report.places import MARGIN, MIXED, OPEN, TIE
from t2i_backdoor_bench.report.quality import gates_of, margins_text
from t2i_backdoor_bench.report.ranking import GROUPS, Summary, summaries
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.report.took_hold import counted, left_out_text, took_hold
from t2i_backdoor_bench.stats.estimates import Difference, Estimate
from t2i_backdoor_bench.store import provenance

MEANS = (
    "Means over the attacks that took hold, with 95 % intervals for attacks like these, trained"
    " anew, on prompts like these. A row is ranked among those that are given the same kinds of"
    " things (Needs says how much of each), if it has run on every attack and is shown to restore"
    " more than no defense does{quality}. Worst is Restored under the attack that is strongest"
    " against the row, of those that keep their stealth, and rows are ranked by it."
)
QUALITY = (
    ", and to draw clean prompts of every attack worse by less than a margin, if at all (paired"
    " tests of non-inferiority at 5 %; {margins})"
)
NO_QUALITY = "; quality was not measured, and nothing is ranked"
STEPS = (
    f"Step: Worst against the row above, on the same prompts and noise, and on the same attacked"
    " models where it is of the same attack. p: of"
    " no difference, the larger of Student's over seeds and McNemar's over pictures, with Holm's"
    " correction for the steps of a table. Differs: on how many attacks the two are told apart,"
    f" with Holm's correction for the attacks. ({TIE}): shown to differ by less than"
    f" {100 * MARGIN:.0f} points, and on no attack told apart. ({MIXED}): some attacks are told"
    f" apart, but Worst is not, or by less than that. ({OPEN}): neither a difference nor a tie"
    " is shown. KID change (FID change) and robustness change: against the undefended model, same"
    " prompts and noise. Where a defense refuses prompts, they are of the pictures that are left,"
    " and FID of fewer is higher. Seconds are of the machines that made the rows."
)
# what a defense changes of the undefended model: heading and unit
CHANGES = {
    "kid_change": ("KID change", ""),
    "fid_change": ("FID change", "%"),
    "robustness": ("Robustness change", "points"),
}
ONE_SEED = "One training seed: the intervals and tests know nothing of training anew."


def grouped(table: Sequence[Summary]) -> dict[str, list[Summary]]:
    """The defenses by the title of their table: what they are given. Those without Restored, as of
    a suspected checkpoint, are in none."""
    found: dict[str, list[Summary]] = {}
    for name in GROUPS:
        for s in table:
            if s.defense != "none" and s.group == name and LEAD in s.means:
                found.setdefault(f"{name}: {given(s.needs)}", []).append(s)
    return found


def how(records: Sequence[Record]) -> str:
    """What the numbers and places mean."""
    gates = gates_of(records)
    quality = QUALITY.format(margins=margins_text(records, gates)) if gates else NO_QUALITY
    one = len({r.cell.seed for r in records if r.status == "done"}) == 1
    return " ".join([MEANS.format(quality=quality), STEPS, *([ONE_SEED] if one else [])])


def columns_of(records: Sequence[Record], table: Sequence[Summary]) -> list[Reading]:
    """The metrics that are columns: Restored with what it can reach, then the others that were
    measured."""
    ways = {way.name: way for way in shown_in("leaderboard", records)}
    first = {m: reading(records, m) for m in (LEAD, BEFORE, RELATIVE)}
    measured = {m for s in table for m in s.means}
    return [way for m, way in (first | ways).items() if m in measured]


def tables(records: Sequence[Record], table: Sequence[Summary] | None = None) -> list[Table]:
    """One table for each kind of needs."""
    table = summaries(records) if table is None else table
    ways = columns_of(records, table)
    changes = [name for name in CHANGES if any(_changed(s, name) is not None for s in table)]
    heads = tuple(_columns(ways, changes))
    doubts = by_defense(records)
    return [
        Table(
            heads,
            tuple(
                Row(tuple(_cells(s, ways, doubts.get(s.defense, set()), changes))) for s in group
            ),
            title,
            f"{GROUPS[group[0].group].capitalize()}.",
        )
        for title, group in grouped(table).items()
    ]


def _changed(s: Summary, name: str) -> Estimate | Difference | None:
    return s.robustness if name == "robustness" else s.means.get(name)


def _columns(ways: Sequence[Reading], changes: Sequence[str]) -> list[Column]:
    heads = [Column(""), Column("Defense", numeric=False), Column("Needs", numeric=False)]
    for way in ways:
        heads.append(Column(way.short, "%" if way.percent else "", name=way.name))
        if way.name == LEAD:
            heads += [Column("Worst", "%"), Column("Worst attack", numeric=False)]
    heads += [Column(*CHANGES[name]) for name in changes]
    heads += [Column("Step", "points"), Column("p"), Column("Differs")]
    return [*heads, Column("Not ranked because", numeric=False)]


def _cells(
    s: Summary, ways: Sequence[Reading], doubts: set[str], changes: Sequence[str]
) -> list[Cell]:
    cells = [Cell(place(s)), Cell(s.defense), Cell(needs_text(s.needs, s.knowledge))]
    for way in ways:
        cell = mean_of(s, way)
        cells.append(Cell(marked(cell.text, way.name, doubts), cell.value, cell.interval))
        if way.name == LEAD:
            cells += worst_cells(s)
    cells += [change(_changed(s, name), CHANGES[name][1]) for name in changes]
    step = s.place.step if s.place else None
    cells += [change(step.difference if step else None), Cell(p_text(step.p) if step else "")]
    cells.append(Cell(f"{step.differs} of {step.attacks}" if step else ""))
    return [*cells, Cell("; ".join(reason.text for reason in s.reasons))]


def worst_cells(s: Summary) -> list[Cell]:
    """Worst with its interval, and its attack; of a row that lacks attacks, how many it has."""
    if s.worst is None:
        return [Cell(DASH), Cell(DASH)]
    found, few = s.worst.restored, f" ({s.done} of {s.attacks} done)" if s.done < s.attacks else ""
    ends = interval(found.low, found.high, True)
    text = marked(shown(found.value, True), LEAD, {LEAD} if s.worst.doubted else set())
    return [Cell(text, found.value, ends), Cell(f"{s.worst.attack}{few}")]


def place(s: Summary) -> str:
    return s.place.text if s.place else DASH


def mean_of(summary: Summary, way: Reading) -> Cell:
    """A mean over the attacks; the leading metric with its interval."""
    found = summary.means.get(way.name)
    if found is None:
        return Cell(DASH)
    if way.name == "seconds":
        return Cell(f"{found.value:.1f}", found.value)
    ends = interval(found.low, found.high, way.percent) if way.name == LEAD else None
    return Cell(shown(found.value, way.percent), found.value, ends)


def change(found: Estimate | Difference | None, unit: str = "%") -> Cell:
    """ "+0.0 [-2.5, +2.6]", in percent or points; without a unit "+0.001 [-0.002, +0.004]"."""
    if found is None:
        return Cell(DASH)
    texts = [
        "" if v is None else f"{100 * v:+.1f}" if unit else f"{v:+.3f}"
        for v in (found.value, found.low, found.high)
    ]
    return Cell(texts[0], found.value, (texts[1], texts[2]) if texts[1] else None)


def not_in_worst(records: Sequence[Record]) -> str:
    """The attacks that took hold and are out of Worst, in a sentence."""
    return worst.left_out_text(records, counted(records))


def to_markdown(records: Sequence[Record]) -> str:
    """leaderboard.md; "" where no defenses are compared."""
    table, left_out = summaries(records), left_out_text(took_hold(records))
    found = tables(records, table)
    if not found and not (left_out and any(s.defense != "none" for s in table)):
        return ""
    means = next((s.means for s in table if s.defense == "none"), {})
    ways = [reading(records, m) for m in ("kid", "fid", "clip_score") if m in means]
    kept = [f"{escape.markdown(w.short)} {shown(means[w.name].value, False)}" for w in ways]
    texts = [left_out, not_in_worst(records), *note(records), how(records)]
    texts += [caption(records, marked=False), provenance.warning(records)]
    parts = [
        "# Leaderboard",
        *map(escape.markdown, findings(records)[:1]),
        *map(markdown.write, found),
        *([f"Undefended: {', '.join(kept)}."] if kept else []),
        *(escape.markdown(text) for text in texts if text),
    ]
    return markdown.page(parts)
