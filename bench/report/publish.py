"""What readers get of a run folder: tables and pictures. All of it is made from stored files, and
nothing here needs a model: torch is not imported."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from t2i_backdoor_bench.contract import Cell, Record, UserError
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


def stored_records(store: Store) -> list[Record]:
    """The records of the folder's last plan, in its order, with a stand-in for each cell that has
    not run; without a plan, all records."""
    manifest = store.read_record("run")
    if manifest is None:
        return store.all_results()
    try:
        extra = {"directions": manifest["directions"], "protocol": manifest["protocol"]}
        base, needs = manifest["protocol"]["base"], manifest["needs"]
        planned = [
            Cell(base, str(c["attack"]), str(c["defense"]), int(c["seed"]), str(c["key"]))
            for c in manifest["cells"]
        ]
        absent_ones = [
            Record(cell, "missing", needs=tuple(map(str, needs[cell.defense])), **extra)
            for cell in planned
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        store.say(
            f"{store.root}/run.json describes no run of this program: all records of the folder are"
            " shown"
        )
        return store.all_results()
    records = []
    for cell, absent in zip(planned, absent_ones, strict=True):
        result = store.read_result(cell.key) or absent
        renamed = replace(result.cell, attack=cell.attack, defense=cell.defense)
        records.append(replace(result, cell=renamed))
    return records


def rebuild(folder: Path, style: str = "full") -> int:
    """Tables and report of a finished run, without a model."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; name one with --out")
    publish(Store(folder, lambda text: print(plaintext.lines(text), file=sys.stderr)), style)
    return 0
