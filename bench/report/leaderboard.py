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
from pathlib import Path

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import ranking as standings
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.paired import TIE, paired_in
from t2i_backdoor_bench.report.ranking import LEAD, Standing
from t2i_backdoor_bench.report.rows import DASH, shown
from t2i_backdoor_bench.stats.estimates import Estimate
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.atomic import write_text

GROUPS = {
    "Oracle": "given the model from before the attack, which nobody has who has to defend one",
    "Trigger known": "given the trigger",
    "Blind": "given neither the trigger nor the model from before the attack",
}
NAMED = 3


def group_of(needs: str) -> str:
    words = needs.split()
    return (
        "Oracle" if "clean_model" in words else "Trigger known" if "trigger" in words else "Blind"
    )


@dataclass(frozen=True)
class Place:
    """A defense in its group: its place ("1", "1 (tie)", or a dash where it is not ranked) and p
    against the first."""

    standing: Standing
    place: str
    p: float | None

    @property
    def quality(self) -> str:
        lost = self.standing.lost
        if not lost:
            return "not measured" if lost is None else "kept"
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        return f"lost: {', '.join(lost[:NAMED])}{more}"


def ranked(records: Sequence[Record]) -> dict[str, list[Place]]:
    """Of each group its defenses, those without loss of quality first, by Restored."""
    every = [s for s in standings.standings(records) if s.defense != "none" and LEAD in s.means]
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


def to_markdown(records: Sequence[Record]) -> str:
    undefended = next((s for s in standings.standings(records) if s.defense == "none"), None)
    lines = [
        "# Leaderboard",
        "",
        *(escape.markdown(text) for text in standings.learned(records)[:1]),
        "",
    ]
    for name, group in ranked(records).items():
        lines += [f"## {name}", "", f"{GROUPS[name].capitalize()}.", ""]
        lines += [
            "| | Defense | Needs | Restored % | RA % | Worst | FTR % | FID | FID change % | CLIP |"
            " Seconds | Quality | p |"
        ]
        lines += ["|---:|---|---|---:|---:|---|---:|---:|---:|---:|---:|---|---:|"]
        for found in group:
            s, p = found.standing, found.p
            cells = [found.place, escape.markdown(s.defense), tables.needs_text(s.needs)]
            cells += [share(s, LEAD), share(s, "removal_accuracy")]
            cells.append(
                f"{100 * s.worst[1]:.1f}, {escape.markdown(s.worst[0])}" if s.worst else DASH
            )
            cells.append(share(s, "false_trigger_rate"))
            cells += [
                shown(s.means["fid"].value, False) if "fid" in s.means else DASH,
                change(s.means.get("fid_change")),
            ]
            cells.append(
                shown(s.means["clip_score"].value, False) if "clip_score" in s.means else DASH
            )
            cells.append(f"{s.means['seconds'].value:.1f}" if "seconds" in s.means else DASH)
            cells += [escape.markdown(found.quality), p_text(p)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    means = undefended.means if undefended is not None else {}
    kept = [
        f"{name} {shown(means[m].value, False)}"
        for m, name in (("fid", "FID"), ("clip_score", "CLIP"))
        if m in means
    ]
    lines += [f"Undefended: {', '.join(kept)}."] if kept else []
    lines += [
        "",
        (
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
        ),
        "",
        escape.markdown(tables.caption(records, marked=False)),
        "",
    ]
    warning = provenance.warning(records)
    return "\n".join([*lines, *([escape.markdown(warning), ""] if warning else [])])


def p_text(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def change(found: Estimate | None) -> str:
    """ "+0.0 [-2.5, +2.6]", in percent."""
    if found is None:
        return DASH
    ends = f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]" if found.low is not None else ""
    return f"{100 * found.value:+.1f}{ends}"


def share(standing: Standing, metric: str) -> str:
    found = standing.means.get(metric)
    if found is None:
        return DASH
    ends = (
        f" [{shown(found.low, True)}, {shown(found.high, True)}]"
        if found.low is not None and metric == LEAD
        else ""
    )
    return shown(found.value, True) + ends


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write leaderboard.md where defenses are compared; nothing else."""
    path = folder / "leaderboard.md"
    if not ranked(records):
        path.unlink(missing_ok=True)
        return []
    write_text(path, to_markdown(records))
    return [path]
