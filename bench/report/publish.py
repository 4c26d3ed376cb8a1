"""What readers get of a run folder: tables, figures and the report. All of it is made from stored
files, without a model: torch is not imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report import texts
from t2i_backdoor_bench.report.figures import attention_maps, picture_grid, plots, sweeps
from t2i_backdoor_bench.report.html import page
from t2i_backdoor_bench.report.printed import print_results
from t2i_backdoor_bench.report.rows import remembering
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def publish(store: Store, style: str = "full", show: bool = True) -> None:
    """Tables, figures and report from the stored records, and the table on the terminal."""
    records = stored_records(store)
    if not any(r.status != "missing" for r in records):
        raise UserError(
            f"{store.root} holds no finished cell: run the benchmark first, or name its folder with"
            " --out"
        )
    with remembering():
        _write(store, records, style, show)


def _write(store: Store, records: Sequence[Record], style: str, show: bool) -> None:
    written = texts.write(records, store.root, style)
    grid = picture_grid.write_grid(store, records)
    written += [grid] if grid else []
    written += sweeps.write_plots(store, records)
    written += attention_maps.write_pictures(store, records)
    written += plots.write_figures(store, records)
    written.append(page.write(store, records))
    if grid is None and store.path("grid.png").is_file():
        store.say(f"{store.root}/grid.png stays as it is: there are no samples to draw it from")
    if show:
        print_results(records, store.root, written, style)


def rewrite(store: Store) -> None:
    """Tables and report of a copy of a run, without figures: those it has stay."""
    records = stored_records(store)
    with remembering():
        texts.write(records, store.root)
        page.write(store, records)


def rebuild(folder: Path, style: str = "full") -> int:
    """Tables and report of a finished run, without a model."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; name one with --out")
    store = Store(folder, lambda text: print(visible(text), file=sys.stderr))
    try:
        with store.working():
            publish(store, style)
    finally:
        store.drop_locks()
    return 0
