"""The section Leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import leaderboard
from t2i_backdoor_bench.report.findings import given
from t2i_backdoor_bench.report.html.names import heading
from t2i_backdoor_bench.report.leaderboard import Place
from t2i_backdoor_bench.report.metrics import Reading, shown_in
from t2i_backdoor_bench.report.numbers import DASH, needs_text, p_text, shown
from t2i_backdoor_bench.report.ranking import summaries


def view(records: Sequence[Record]) -> dict[str, Any]:
    """Defenses over all attacks, as `leaderboard.md` ranks them; of a suspect, whose restoration
    nobody can judge, without ranks."""
    table, groups = summaries(records), leaderboard.ranked(records)
    ways = [
        way
        for way in shown_in("leaderboard", records, lead=True)
        if any(way.name in s.means for s in table)
    ]
    blocks = {"Undefended": [Place(s, DASH, None) for s in table if s.defense == "none"]}
    blocks |= {f"{name}: {leaderboard.GROUPS[name]}": group for name, group in groups.items()}
    placed = {p.summary.defense for group in blocks.values() for p in group}
    for s in table:
        if s.defense not in placed:
            name = given(s.needs).capitalize()
            blocks.setdefault(name, []).append(Place(s, DASH, None))
    heads = ["Defense", "Rank", *(["Quality", "p"] if groups else []), *map(heading, ways)]
    return {
        "ranked": bool(groups),
        "heads": [*heads, "Worst", "Attacks"],
        "groups": [
            {"name": name, "rows": [_row(found, ways) for found in group]}
            for name, group in blocks.items()
            if group
        ],
    }


def _row(found: Place, ways: Sequence[Reading]) -> dict[str, Any]:
    s = found.summary
    undefended = s.defense == "none"
    worst = {"share": f"{100 * s.worst[1]:.1f} %", "attack": s.worst[0]} if s.worst else None
    return {
        "defense": s.defense,
        "needs": needs_text(s.needs) if s.needs else "",
        "place": found.place,
        "quality": DASH if undefended else found.quality,
        "lost": 0 if undefended else len(s.lost or ()),
        "p": p_text(found.p),
        "means": [_mean(found, way) for way in ways],
        "worst": worst,
        "done": s.done,
        "attacks": s.attacks,
    }


def _mean(found: Place, way: Reading) -> dict[str, Any]:
    """A mean and its interval."""
    mean = found.summary.means.get(way.name)
    if mean is None:
        return {"value": "", "text": DASH, "interval": None}

    def text(value: float) -> str:
        return f"{value:.1f}" if way.name == "seconds" else shown(value, way.percent)

    ends = None if mean.low is None or mean.high is None else (text(mean.low), text(mean.high))
    return {"value": repr(mean.value), "text": text(mean.value), "interval": ends}
