"""What in a run folder is not what its records give."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.report.figures.plots import MADE
from t2i_backdoor_bench.report.html import kept, page
from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

AGAIN = "--tables-only writes it anew"


def changed_files(store: Store) -> list[str]:
    """One line for each table and page in the folder that is not what its records give, and for
    each picture that is not whole."""
    records, wrong = stored_records(store), []
    report = store.root / "report.html"
    given = texts(records, "paper")
    if report.is_file():
        given["report.html"] = page.render_report(store, records, kept.read(report))
    for name, text in given.items():
        path = store.root / name
        if path.is_file() and path.read_bytes() != text.encode():
            wrong.append(f"{name} is not what the records give: {AGAIN}")
    return wrong + damaged_pictures(store)


def damaged_pictures(store: Store) -> list[str]:
    """The figures that are not those that were drawn, and the pictures that cannot be read."""
    made = store.read_record(MADE)
    sums = made.get("sha256", {}) if isinstance(made, dict) else {}
    wrong = []
    for name, digest in sums.items() if isinstance(sums, dict) else ():
        path = store.root / "plots" / Path(str(name)).name
        if not path.is_file() or file_digest(path) != digest:
            wrong.append(f"plots/{path.name} is not the figure that was drawn: {AGAIN}")
    for path in sorted(store.root.glob("*.png")):
        if not _whole(path):
            wrong.append(f"{path.name} is damaged: it cannot be read as a picture; {AGAIN}")
    return wrong


def _whole(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True
