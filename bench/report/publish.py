"""What readers get of a run folder: tables and pictures. All of it is made from stored files, and
nothing here needs a model: torch is not imported."""

from __future__ import annotations

import sys
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract import printable as plaintext
from t2i_backdoor_bench.report import leaderboard
from t2i_backdoor_bench.report import matrix as pivot
from t2i_backdoor_bench.report import paper_table as paper
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.figures import attention_maps, sweeps
from t2i_backdoor_bench.report.figures import picture_grid as grid
from t2i_backdoor_bench.report.figures import plots as figures
from t2i_backdoor_bench.report.formats import terminal
from t2i_backdoor_bench.report.html import page as report
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def publish(store: Store, style: str = "full", show: bool = True) -> None:
    """Tables, pictures and report from the stored records, and the table on the terminal."""
    records = stored_records(store)
    if not any(r.status != "missing" for r in records):
        raise UserError(
            f"{store.root} holds no finished cell: run the benchmark first, or name its folder with"
            " --out"
        )
    written = (
        tables.write(records, store.root)
        + leaderboard.write(records, store.root)
        + pivot.write(records, store.root)
    )
    pictures = grid.write_grid(store, records)
    written += [
        *([pictures] if pictures else []),
        *sweeps.write_plots(store, records),
        *attention_maps.write_pictures(store, records),
    ]
    written += figures.write_figures(store, records)
    if style == "paper":
        written += paper.write(records, store.root)
    written.append(report.write(store, records))
    if not (store.root / "samples").is_dir():
        store.say(
            f"{store.root} has no samples/: its report shows no pictures, and grid.png is the one"
            " of before"
        )
    if show:
        print(paper.to_markdown(records)) if style == "paper" else terminal.show(records)
        terminal.summary(records, store.root, written)


def rebuild(folder: Path, style: str = "full") -> int:
    """Tables and report of a finished run, without a model."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; name one with --out")
    publish(Store(folder, lambda text: print(plaintext.lines(text), file=sys.stderr)), style)
    return 0
