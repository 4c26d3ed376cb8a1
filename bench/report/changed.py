"""What in a run folder is not what its records give."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.report.figures import picture_grid, plots, sweeps
from t2i_backdoor_bench.report.html import kept, page
from t2i_backdoor_bench.report.rows import remembering
from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

AGAIN = "--tables-only writes it anew"


def changed_files(store: Store) -> list[str]:
    """One line for each table, page and figure in the folder that is not what its records give, and
    for each picture that is not whole."""
    with remembering():
        return _changed_files(store, stored_records(store))


def _changed_files(store: Store, records: Sequence[Record]) -> list[str]:
    wrong = []
    report = store.path("report.html")
    given = texts(records, "paper")
    if report.is_file():
        given["report.html"] = page.render_report(store, records, kept.read(report))
    for name, text in given.items():
        path = store.path(name)
        if path.is_file() and path.read_bytes() != text.encode():
            wrong.append(f"{name} is not what the records give: {AGAIN}")
    for path in sorted(store.root.glob("*.png")):
        if not _whole(path):
            wrong.append(f"{path.name} is damaged: it cannot be read as a picture; {AGAIN}")
    return wrong or changed_figures(store, records)


def changed_figures(store: Store, records: Sequence[Record]) -> list[str]:
    """The figures that are not those that are drawn of the records now, pixel by pixel. Attention
    maps are not looked at."""
    with tempfile.TemporaryDirectory() as elsewhere:
        twin = Store(Path(elsewhere), lambda text: None)
        drawn = [*plots.write_figures(twin, records), *sweeps.write_plots(twin, records)]
        now = {path.relative_to(twin.root).as_posix(): path for path in drawn}
        grid = picture_grid.grid(store, records)
        if grid is not None:
            grid.save(Path(elsewhere) / "grid.png")
            now["grid.png"] = Path(elsewhere) / "grid.png"
        found = [p for kind in (".png", ".pdf") for p in store.files("plots", kind)]
        found += [p for p in store.files("", ".png") if p.name.startswith("sweep-")]
        names = {p.relative_to(store.root).as_posix() for p in found}
        names |= {"grid.png"} if grid is not None else set()
        there = sorted(name for name in names if store.path(name).is_file())
        return [
            f"{name} is not the figure that matplotlib {version('matplotlib')} draws of the"
            f" records: {AGAIN}"
            for name in there
            if name not in now or not _same(store.path(name), now[name])
        ]


def _same(path: Path, other: Path) -> bool:
    """Whether two figures show the same."""
    if file_digest(path) == file_digest(other):
        return True
    if path.suffix != ".png" or not _whole(path):
        return False
    with Image.open(path, formats=["PNG"]) as a, Image.open(other) as b:
        return a.size == b.size and a.convert("RGBA").tobytes() == b.convert("RGBA").tobytes()


def _whole(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True
