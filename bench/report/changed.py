"""Which tables in a run folder are not what its records give."""

from __future__ import annotations

from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def changed_tables(store: Store) -> list[str]:
    """One line for each table in the folder that is not what its records give."""
    wrong = []
    for name, text in texts(stored_records(store)).items():
        path = store.path(name)
        if path.is_file() and path.read_bytes() != text.encode():
            wrong.append(f"{name} is not what the records give: --tables-only writes it anew")
    return wrong
