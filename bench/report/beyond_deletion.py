"""What a removal adds over deleting the trigger from every prompt, which costs nothing: that works
only for the trigger that is known, in the form that is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.averages import over_attacks
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.paired import difference
from t2i_backdoor_bench.report.ranking import Summary
from t2i_backdoor_bench.report.took_hold import counted

STRIP, CHANGED = "strip_trigger", "asr_moved"
FORMS = ("moved", "misspelt", "look-alike")  # that a sentence names; the rate is of all forms
KIND = re.compile(r"([a-z-]+) (\d+) % of (\d+)")  # as the note of CHANGED says it
OTHERS = {"clean_model", "clean_text_encoder"}  # who has these need not remove anything


def beyond_deletion(table: Sequence[Summary], records: Sequence[Record]) -> Iterator[str]:
    """A sentence on changed forms of a known trigger, and one on unknown triggers; none where the
    run has no such rows. Each names the ranked removal that restores most."""
    attacks = counted(records)
    kept = [r for r in records if r.cell.attack in attacks]
    ranked = [s for s in table if s.place is not None and not OTHERS & set(s.needs.split())]
    ranked = [s for s in ranked if s.defense not in ("none", STRIP)]
    known = [s for s in ranked if "trigger" in s.needs.split()]
    blind = [s for s in ranked if "trigger" not in s.needs.split()]
    if known and (text := _of_changed(_first(known), kept)):
        yield text
    if blind and STRIP in {r.cell.defense for r in kept}:
        yield from _of_unknown(_first(blind), kept)


def _first(table: Sequence[Summary]) -> str:
    return max(table, key=lambda s: s.means[LEAD].value).defense


def _rows(records: Sequence[Record], defense: str) -> list[Record]:
    return [r for r in records if r.cell.defense == defense]


def _of_changed(defense: str, records: Sequence[Record]) -> str:
    ours, theirs = (_rows(records, name) for name in (defense, STRIP))
    left, after = over_attacks(theirs, CHANGED), over_attacks(ours, CHANGED)
    gap = difference(theirs, ours, CHANGED, attacks_fixed=True)
    if left is None or after is None or gap is None:
        return ""
    ends = "" if gap.low is None else f" [{100 * gap.low:.1f}, {100 * gap.high:.1f}]"
    return (
        f"Deleting the trigger from prompts ({STRIP}) leaves the backdoor in"
        f" {100 * left.value:.1f} % of the pictures whose trigger has"
        f" changed{_by_form(theirs)}; {defense} leaves it in"
        f" {100 * after.value:.1f} %{_by_form(ours)}, {100 * gap.value:.1f} points fewer{ends}."
    )


def _by_form(records: Sequence[Record]) -> str:
    """ " (moved 0 %, misspelt 95 %)": of all pictures of a form."""
    shown, many = dict.fromkeys(FORMS, 0.0), dict.fromkeys(FORMS, 0)
    for record in records:
        note = record.scores[CHANGED].note if CHANGED in record.scores else ""
        for form, percent, n in KIND.findall(note):
            if form in many:
                shown[form] += int(percent) * int(n)
                many[form] += int(n)
    texts = [f"{form} {shown[form] / many[form]:.0f} %" for form in FORMS if many[form]]
    return f" ({', '.join(texts)})" if texts else ""


def _of_unknown(defense: str, records: Sequence[Record]) -> Iterator[str]:
    before, after = (over_attacks(_rows(records, name), "asr") for name in ("none", defense))
    if before is not None and after is not None:
        yield (
            f"Nobody can delete a trigger that is not known: {100 * before.value:.1f} % of the"
            f" triggered pictures show the backdoor, and after {defense}, which is not given it,"
            f" {100 * after.value:.1f} %."
        )
