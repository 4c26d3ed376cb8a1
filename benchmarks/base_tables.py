"""The tables of the run on several embedded bases (results/families)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from page_results import Results

from t2i_backdoor_bench.report import bases
from t2i_backdoor_bench.report.formats import markdown
from t2i_backdoor_bench.report.table import Table
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def base_attacks(results: Results) -> str:
    return _of(results, bases.attacks_table)


def base_defenses(results: Results) -> str:
    return _of(results, bases.defenses_table)


def base_agreement(results: Results) -> str:
    return _of(results, bases.agreement_table)


def _of(results: Results, make: Callable[[bases.Runs], Table]) -> str:
    """A table of all bases that have a run folder, without its words."""
    folders = [p.parent for p in sorted((results.root / "families").glob("*/run.json"))]
    runs = {p.name: stored_records(Store(p, read_only=True)) for p in folders}
    return markdown.write(replace(make(runs), title="", caption="")).rstrip("\n")
