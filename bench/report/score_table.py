"""The scores of pictures that another tool drew, as a table and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2i_backdoor_bench.contract import Score
from t2i_backdoor_bench.contract.registry import Entry
from t2i_backdoor_bench.report.formats import csv, terminal
from t2i_backdoor_bench.report.numbers import interval, shown
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table, plain_table
from t2i_backdoor_bench.store.atomic import storing, write_text

Scores = Sequence[tuple[Entry, Score]]


def publish_scores(scores: Scores, folder: Path) -> None:
    """The table on the terminal, and scores.csv in `folder`. Raises UserError where that cannot be
    written."""
    path = folder / "scores.csv"
    with storing(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, csv.write(csv_table(scores)))
    terminal.write(score_table(scores), f"All of it: {path}")


def score_table(scores: Scores) -> Table:
    """A row for each metric that has a value; what is left out, and why, is in the notes."""
    columns = (
        Column("Metric", numeric=False),
        Column("Score"),
        Column("95 % interval", numeric=False),
        Column("n"),
        Column("By", numeric=False),
    )
    rows = []
    for entry, score in scores:
        if score.value is None:
            continue
        arrow = {"higher": " ↑", "lower": " ↓"}.get(entry.better, "")
        unit = " (%)" if entry.percent else ""
        ends = interval(score.low, score.high, entry.percent)
        rows.append(
            Row(
                (
                    Cell(f"{entry.title}{unit}{arrow}"),
                    Cell(shown(score.value, entry.percent)),
                    Cell(f"{ends[0]} to {ends[1]}" if ends else ""),
                    Cell(str(score.n)),
                    Cell(score.network),
                )
            )
        )
    return Table(columns, tuple(rows), notes=tuple(left_out(scores)))


def csv_table(scores: Scores) -> Table:
    """Every metric as a row of plain values, also those without one."""
    return plain_table(
        [
            {
                "metric": entry.name,
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "n": score.n,
                "better": entry.better,
                "network": score.network,
                "note": score.note,
            }
            for entry, score in scores
        ]
    )


def left_out(scores: Scores) -> list[str]:
    """The metrics without a value, by reason."""
    found: dict[str, list[str]] = {}
    for entry, score in scores:
        if score.value is None:
            found.setdefault(score.note, []).append(entry.name)
    return [f"left out, {note}: {', '.join(names)}" for note, names in found.items()]
