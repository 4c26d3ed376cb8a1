"""What the tests of kills, full disks and damaged files ask of a run."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
from pathlib import Path

from t2i_backdoor_bench.report.metrics import COST

FORK = multiprocessing.get_context("fork")


def calls(tmp_path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def outcome(folder: Path) -> dict[str, object]:
    """All that a run gives, without what the clock says."""
    with (folder / "table.csv").open() as file:
        table = [{k: v for k, v in row.items() if k not in COST} for row in csv.DictReader(file)]
    return {
        "table.csv": table,
        "rows.csv": (folder / "rows.csv").read_text(),  # these metrics hold no cost
        "table.md": [
            line.rsplit("|", 3)[0] for line in (folder / "table.md").read_text().splitlines()
        ],  # the last two columns: seconds of the defense, and of a picture
        "table.tex": [
            line.rsplit("&", 2)[0] for line in (folder / "table.tex").read_text().splitlines()
        ],
        "grid.png": (folder / "grid.png").read_bytes(),
    }


def leftovers(folder: Path) -> list[str]:
    return [
        p.name for p in folder.rglob("*") if p.suffix in (".partial", ".lock") or p.name == "locks"
    ]


def in_child(task) -> int | None:
    """Run `task` in a fork of this process, which has everything imported; its exit status
    (negative: the signal that ended it)."""

    def quiet() -> None:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            code = task()
        os._exit(code or 0)

    process = FORK.Process(target=quiet)
    process.start()
    process.join(900)
    return process.exitcode
