"""One metric of every defense (rows) against every attack (columns), as tables that fit on a
page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.atomic import write_text


@dataclass(frozen=True)
class View:
    """A metric that is looked at in this way: a file name for its figure, its heading, and what its
    values mean."""

    name: str
    metric: str
    title: str
    what: str


VIEWS = (
    View(
        "matrix",
        "restoration_accuracy",
        "Restored, %",
        "Triggered pictures without the backdoor that show what the prompt asked for.",
    ),
    View(
        "removal",
        "removal_accuracy",
        "Removal accuracy (RA), %",
        "Triggered pictures without the backdoor, or refused.",
    ),
    View(
        "detection",
        "detection_auroc",
        "AUROC",
        "How often a triggered prompt scores above a clean one; 0.5 is chance.",
    ),
    View(
        "refusal",
        "refusal_rate",
        "Clean prompts refused, %",
        "What users pay for a detector that refuses prompts.",
    ),
    View(
        "precision",
        "location_precision",
        "Location, precision %",
        "Share of the located words that belong to the trigger.",
    ),
    View(
        "recall",
        "location_recall",
        "Location, recall %",
        "Share of the trigger's words that are located.",
    ),
)


@dataclass(frozen=True)
class Pivot:
    """values (defenses, attacks), float64, in percent where the metric is a share; NaN where there
    is none."""

    view: View
    defenses: list[str]
    attacks: list[str]
    values: np.ndarray
    percent: bool

    def text(self, value: float) -> str:
        return (
            tables.DASH if np.isnan(value) else f"{value:.1f}" if self.percent else f"{value:.2f}"
        )

    @property
    def means(self) -> np.ndarray:
        """The mean over the attacks, (defenses,); NaN where one is missing."""
        return self.values.mean(1)


def pivots(records: Sequence[Record]) -> list[Pivot]:
    """Every view that the records have values for, the undefended model and then the best first;
    none of attacks that nothing defends against."""
    rows = tables.rows(records)
    if tables.attacks_alone(rows):
        return []
    found = []
    for view in VIEWS:
        table = {(r["defense"], r["attack"]): r.get(view.metric) for r in rows}
        attacks = list(dict.fromkeys(a for _, a in table))
        defenses = [
            d
            for d in dict.fromkeys(d for d, _ in table)
            if any(table.get((d, a)) is not None for a in attacks)
        ]
        if not defenses:
            continue
        way = tables.direction(records, view.metric)
        values = np.array([[table.get((d, a)) for a in attacks] for d in defenses], np.float64) * (
            100 if way["percent"] else 1
        )
        means = (np.nanmean(values, 1) * (-1 if way["better"] == "higher" else 1)).round(
            9
        )  # the order does not hang on a last bit
        order = sorted(range(len(defenses)), key=lambda i: (defenses[i] != "none", means[i]))
        found.append(
            Pivot(view, [defenses[i] for i in order], attacks, values[order], way["percent"])
        )
    return found


def to_markdown(records: Sequence[Record]) -> str:
    """Every view as a table."""
    lines = ["# Matrix", ""]
    needs = {r.cell.defense: tables.needs_text(" ".join(r.needs)) for r in records}
    for pivot in pivots(records):
        lines += [f"## {pivot.view.title}", "", pivot.view.what, ""]
        lines.append(
            f"| Defense | Needs | {' | '.join(escape.markdown(a) for a in pivot.attacks)} | Mean |"
        )
        lines.append(f"|---|---|{'---:|' * (len(pivot.attacks) + 1)}")
        for defense, values, mean in zip(pivot.defenses, pivot.values, pivot.means, strict=True):
            texts = " | ".join(pivot.text(v) for v in [*values, mean])
            lines.append(f"| {escape.markdown(defense)} | {needs[defense]} | {texts} |")
        lines.append("")
    warning = provenance.warning(records)
    lines += [
        escape.markdown(tables.caption(records, marked=False)),
        *(["", escape.markdown(warning)] if warning else []),
        "",
    ]
    return "\n".join(lines)


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write matrix.md where there is something to lay out: more than one attack and a defense."""
    path = folder / "matrix.md"
    if len({r.cell.attack for r in records}) < 2 or not pivots(records):
        path.unlink(missing_ok=True)
        return []
    write_text(path, to_markdown(records))
    return [path]
