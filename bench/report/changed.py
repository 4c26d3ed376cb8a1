"""Which tables in a run folder are not what its records give."""

from __future__ import annotations

from t2i_backdoor_bench.report import leaderboard, matrix, rows
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def changed_tables(store: Store) -> list[str]:
    """One line for each table in the folder that is not what its records give."""
    wrong = []
    records = stored_records(store)
    more = {"leaderboard.md": leaderboard.to_markdown, "matrix.md": matrix.to_markdown}
    texts = rows.texts(records) | {
        name: write(records) for name, write in more.items() if (store.root / name).is_file()
    }
    for name, text in texts.items():
        path = store.root / name
        if path.is_file() and path.read_bytes() != text.encode():
            wrong.append(f"{name} is not what the records give: --tables-only writes it anew")
    return wrong
