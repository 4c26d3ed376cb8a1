"""The section Leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import leaderboard, marks
from t2i_backdoor_bench.report.findings import given
from t2i_backdoor_bench.report.html.names import heading
from t2i_backdoor_bench.report.metrics import LEAD, Reading
from t2i_backdoor_bench.report.numbers import DASH, needs_text, p_text, shown
from t2i_backdoor_bench.report.ranking import GROUPS, Summary, summaries
from t2i_backdoor_bench.report.took_hold import left_out_text, took_hold


def view(records: Sequence[Record]) -> dict[str, Any]:
    """Defenses over all attacks, as `leaderboard.md` ranks them; of a suspect, whose restoration
    nobody can judge, without ranks."""
    table = summaries(records)
    groups, ways = leaderboard.grouped(table), leaderboard.columns_of(records, table)
    doubts = marks.by_defense(records)
    blocks = {"Undefended": [s for s in table if s.defense == "none"]}
    for title, group in groups.items():
        blocks[f"{title}. {GROUPS[group[0].group].capitalize()}."] = group
    placed = {s.defense for group in blocks.values() for s in group}
    for s in table:
        if s.defense not in placed:
            blocks.setdefault(given(s.needs).capitalize(), []).append(s)
    steps = ["Step", "p", "Differs"] if groups else []
    heads = ["Defense", "Rank", *(text for way in ways for text in heads_of(way)), *steps]
    notes = [left_out_text(took_hold(records)), leaderboard.not_in_worst(records)]
    notes += marks.note(records)
    notes += [leaderboard.how(records)] if groups else []
    return {
        "ranked": bool(groups),
        "heads": [*heads, "Attacks"],
        "groups": [
            {"name": name, "rows": [row_of(s, ways, doubts.get(s.defense, set())) for s in group]}
            for name, group in blocks.items()
            if group
        ],
        "unranked": [(s.defense, why_of(s)) for s in table if s.reasons],
        "notes": [text for text in notes if text],
    }


def why_of(s: Summary) -> str:
    """Why a row has no rank, whole; "" where it has one."""
    return "; ".join(reason.text for reason in s.reasons)


def heads_of(way: Reading) -> list[str]:
    """The headings of the columns of a metric."""
    return [heading(way), "Worst"] if way.name == LEAD else [heading(way)]


def row_of(s: Summary, ways: Sequence[Reading], doubts: set[str]) -> dict[str, Any]:
    """A row of the leaderboard as texts."""
    step = s.place.step if s.place else None
    moved = leaderboard.change(step.difference if step else None)
    return {
        "defense": s.defense,
        "needs": needs_text(s.needs, s.knowledge) if s.needs else "",
        "place": leaderboard.place(s),
        "short": s.reasons[0].short if s.reasons else "",
        "step": {"text": moved.text if step else "", "interval": moved.interval},
        "p": p_text(step.p) if step else "",
        "differs": f"{step.differs} of {step.attacks}" if step else "",
        "means": [_mean(s, way, doubts) for way in ways],
        "worst": worst_of(s),
        "done": s.done,
        "attacks": s.attacks,
    }


def worst_of(s: Summary) -> dict[str, Any] | None:
    """Worst as texts; None where there is none."""
    if s.worst is None:
        return None
    share, attack = leaderboard.worst_cells(s)
    return {"share": share.text, "attack": attack.text, "interval": share.interval}


def _mean(s: Summary, way: Reading, doubts: set[str]) -> dict[str, Any]:
    """A mean and its interval."""
    mean = s.means.get(way.name)
    if mean is None:
        return {"value": "", "text": DASH, "interval": None, "lead": way.name == LEAD}

    def text(value: float) -> str:
        return f"{value:.1f}" if way.name == "seconds" else shown(value, way.percent)

    ends = None if mean.low is None or mean.high is None else (text(mean.low), text(mean.high))
    return {
        "value": repr(mean.value),
        "text": marks.marked(text(mean.value), way.name, doubts),
        "interval": ends,
        "lead": way.name == LEAD,
    }
