"""The benchmark as a library: what the command does, with a pandas DataFrame for the table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from t2i_backdoor_bench import command, verbs
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.running.several_bases import each_base
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Data


def run(*, data: Data | str | None = None, show: bool = False, **settings: Any) -> pd.DataFrame:
    """Run the benchmark and return its table. `settings` have the names of the flags, with
    underscores:

        run(attacks="badt2i_pixel", defenses="none,skdcag", scale="smoke", set={"skdcag.steps":
        100})

    `data` is what the flag takes, or a `Data` object. One cell is made at a time unless `workers`
    says otherwise: other processes need a main guard, and do not see methods that were registered
    in this one alone. Everything is written to the run folder as well (`out`, by default
    results/run-SCALE), and a second call resumes from there. A failed cell is a row with status
    "failed", and one that `time_limit` left has "missing". With several bases ("shapes,shapes-xl")
    the table has the rows of all that were begun before `time_limit`, and its `attrs` the folder
    of their comparison. `show` also prints the table and the summary. Raises UserError for what
    cannot be run.
    """
    named = {"data": data} if isinstance(data, str) else {}
    own = None if named else data
    config = make_config({"workers": 1} | settings | named)
    several = each_base(config)
    if several:
        status = verbs.several_bases(
            several, lambda one: command.run(one, own, show=show), data=own, show=show
        )
    else:
        status = command.run(config, own, show=show)
    if status == 130:
        raise KeyboardInterrupt
    if not several:
        return read_table(config.folder)
    begun = [one.folder for one in several.values() if one.folder.is_dir()]
    frame = pd.concat([read_table(folder) for folder in begun], ignore_index=True)
    frame.attrs = {"folder": str(next(iter(several.values())).folder.parent)}
    return frame


def read_table(folder: str | Path) -> pd.DataFrame:
    """The table of a run folder: one row an attack x defense, the columns of table.csv. `attrs`
    names folder and report."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}")
    records = stored_records(Store(folder, lambda text: print(visible(text), file=sys.stderr)))
    frame = pd.DataFrame(rows(records)) if records else pd.DataFrame()
    frame.attrs = {"folder": str(folder), "report": str(folder / "report.html")}
    return frame
