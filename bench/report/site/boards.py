"""The boards of a site: one for each protocol, family of base models and kind of needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2i_backdoor_bench.report import leaderboard, marks
from t2i_backdoor_bench.report.findings import first_of, given, percent
from t2i_backdoor_bench.report.formats import csv
from t2i_backdoor_bench.report.html.leaderboard import heads_of, row_of, why_of, worst_of
from t2i_backdoor_bench.report.html.names import counted
from t2i_backdoor_bench.report.metrics import LEAD, Reading
from t2i_backdoor_bench.report.numbers import DASH
from t2i_backdoor_bench.report.ranking import GROUPS, Leaders, Summary, leaders
from t2i_backdoor_bench.report.site.names import method_address, paper_view, slug
from t2i_backdoor_bench.report.site.runs import Run
from t2i_backdoor_bench.report.table import plain_table
from t2i_backdoor_bench.report.took_hold import left_out_text, took_hold

Member = tuple[Run, Summary]


@dataclass(frozen=True)
class Board:
    """The defenses that are given the same kind of things, of all runs of one protocol on one
    family of base models."""

    protocol: int
    family: str
    kind: str
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        kind = self.kind.lower().replace(" ", "-")
        return f"protocol-{self.protocol}-{slug(self.family)}-{slug(kind)}"

    @property
    def address(self) -> str:
        return f"boards/{self.name}.html"

    @property
    def runs(self) -> list[Run]:
        return list({run.slug: run for run, _ in self.members}.values())


def boards_of(runs: Sequence[Run]) -> list[Board]:
    """All boards: the newest protocol first, then by family, then from most to least given."""
    found: dict[tuple[int, str, str], list[Member]] = {}
    for run in runs:
        for s in run.table:
            if s.defense != "none":
                key = (run.measured_by, run.family, s.group)
                found.setdefault(key, []).append((run, s))
    order = sorted(found, key=lambda k: (-k[0], k[1], list(GROUPS).index(k[2])))
    return [Board(*key, tuple(found[key])) for key in order]


def wins_of(board: Board) -> list[dict[str, Any]]:
    """The first of each run and kind of needs: who it is, how much it restores, and whether others
    are told apart from it; the runs of most attacks first, as it is easy to be first under one.
    Smoke runs have no winner."""
    found = []
    for run in board.runs:
        if run.smoke:
            continue
        own = [s for r, s in board.members if r is run]
        found += [_win(run, group) for group in leaders(own).values()]
    return sorted(found, key=lambda win: (-win["attacks"], -win["value"]))


def _win(run: Run, group: Leaders) -> dict[str, Any]:
    first, level = group.rows[0], len(group.rows) - 1
    many = counted(len(first.under), "attack")
    how = f"First of {group.ranked} ranked on {many}, {given(first.needs)}; run {run.name}"
    name = first.defense
    if level:  # nobody is shown to be best
        how = f"Not told apart from each other; first {how.partition(' ')[2]}"
        name = f"{name} and {level} more"
    return {
        "name": name,
        "attacks": len(first.under),
        "value": first.worst.value,
        "share": percent(first.worst.restored),
        "how": f"{how}.",
        "text": first_of(group),
        "run": "",
        "status": run.standing.status,
    }


def card(board: Board) -> dict[str, Any]:
    """A board at one glance."""
    defenses = {s.defense for _, s in board.members}
    many = f"{counted(len(defenses), 'defense')} in {counted(len(board.runs), 'run')}"
    return {
        "kind": board.kind,
        "address": board.address,
        "about": f"{GROUPS[board.kind].capitalize()}.",
        "wins": wins_of(board)[:1],
        "why": why_none(board),
        "count": f"{many}.",
    }


def why_none(board: Board) -> str:
    """Why a board names no winner."""
    if all(run.smoke for run in board.runs):
        return "Smoke runs only: they show that everything works, and say nothing of the methods."
    return "No row is ranked: the board says why of each."


def view(board: Board) -> dict[str, Any]:
    """A board as its template takes it, best first: ranked rows by Worst, then the others."""
    ways = _ways(board)
    rows = [_row(run, s, ways) for run, s in board.members]
    rows.sort(key=lambda row: (row["place"] == DASH, -row["lead"], row["defense"]))
    heads = ["Defense", "Rank in its run"]
    heads += [text for way in ways for text in heads_of(way)]
    notes: dict[str, list[str]] = {}  # what is said of several runs is said once
    for run in board.runs:
        found = [left_out_text(took_hold(run.records)), leaderboard.not_in_worst(run.records)]
        found += marks.note(run.records)
        for text in (*found, leaderboard.how(run.records)):
            notes.setdefault(text, []).append(run.name)
    return {
        "kind": board.kind,
        "about": f"{GROUPS[board.kind]}.",
        "wins": wins_of(board),
        "why": why_none(board),
        "heads": [*heads, "Attacks", "Seeds", "Prompts", "Run", "Paper"],
        "rows": rows,
        "runs": [run.view() for run in board.runs],
        "csv": f"{board.name}.csv",
        "unranked": [
            (f"{s.defense} ({run.name})", why_of(s)) for run, s in board.members if s.reasons
        ],
        "notes": [f"{', '.join(names)}: {text}" for text, names in notes.items() if text],
    }


def _ways(board: Board) -> list[Reading]:
    """The metrics that any of its runs measured, the leading one first."""
    found: dict[str, Reading] = {}
    for run in board.runs:
        own = [s for r, s in board.members if r is run]
        found |= {way.name: way for way in leaderboard.columns_of(run.records, own)}
    return sorted(found.values(), key=lambda way: (way.name != LEAD, way.order, way.name))


def _row(run: Run, s: Summary, ways: Sequence[Reading]) -> dict[str, Any]:
    doubts = marks.by_defense(run.records).get(s.defense, set())
    papers = [paper_view(paper) for paper in run.papers_for(s.defense)]
    step = s.place.step if s.place else None
    own = run.of(defense=s.defense)
    return row_of(s, ways, doubts) | {
        "address": method_address("defense", s.defense),
        "papers": papers,
        "papers_text": ", ".join(paper["short"] for paper in papers),
        "run": run.view(),
        "rank": s.place.rank if s.place else "",
        "first": s.place is not None and step is None and not run.smoke,
        "lead": s.worst.value if s.worst else -1.0,
        "worst": _worst(run, s),
        "seeds": len({r.cell.seed for r in own}),
        "n": str(own[0].protocol.get("evaluation", {}).get("n", DASH)),
    }


def _worst(run: Run, s: Summary) -> dict[str, Any]:
    if s.worst is None:
        return {"value": "", "share": DASH, "attack": "", "interval": None, "address": ""}
    address = run.cells[s.worst.attack, s.defense]
    return worst_of(s) | {"value": repr(s.worst.value), "address": address}


def csv_text(board: Board) -> str:
    """The board as plain numbers, with the ends of their intervals."""
    ways, lines = _ways(board), []
    for run, s in board.members:
        line: dict[str, Any] = {"defense": s.defense, "needs": s.needs, "run": run.name}
        line |= {"by": run.standing.by, "status": run.standing.status, "scale": run.scale}
        line |= {"rank_in_run": s.place.rank if s.place else None, "not_ranked": why_of(s)}
        for way in ways:
            mean = s.means.get(way.name)
            ends = (None, None, None) if mean is None else mean
            names = (way.name, f"{way.name}_lo", f"{way.name}_hi")
            line |= dict(zip(names, ends, strict=True))
        value, low, high = s.worst.restored if s.worst else (None, None, None)
        line |= {"worst_attack": s.worst.attack if s.worst else "", "worst_value": value}
        line |= {"worst_lo": low, "worst_hi": high}
        lines.append(line | {"attacks_done": s.done, "attacks": s.attacks})
    return csv.write(plain_table(lines))
