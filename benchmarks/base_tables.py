"""The tables of the run on several embedded bases (results/families)."""

from __future__ import annotations

from dataclasses import replace

from page_results import Results

from t2i_backdoor_bench.report.bases import agreement_table, attacks_table, defenses_table
from t2i_backdoor_bench.report.formats import markdown
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def families(results: Results) -> str:
    """Attacks, defenses and the agreement of bases, below each other."""
    folders = sorted(p for p in (results.root / "families").iterdir() if (p / "run.json").is_file())
    runs = {p.name: stored_records(Store(p, read_only=True)) for p in folders}
    tables = [made(runs) for made in (attacks_table, defenses_table, agreement_table)]
    return "\n".join(markdown.write(replace(one, title="")) for one in tables)
