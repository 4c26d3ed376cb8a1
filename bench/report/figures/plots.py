"""The figures of a run as files for a paper, plots/NAME.png and .pdf: pure functions of the stored
records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.hashing import digest, file_digest
from t2i_backdoor_bench.report.figures.heat_map import heat_map
from t2i_backdoor_bench.report.figures.intervals import attacks, rates
from t2i_backdoor_bench.report.figures.losses import losses
from t2i_backdoor_bench.report.figures.style import STYLE, save
from t2i_backdoor_bench.report.figures.tradeoff import tradeoff
from t2i_backdoor_bench.report.formats.escape import filename
from t2i_backdoor_bench.report.matrix import matrices
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.forms import each, obj, of_all, text
from t2i_backdoor_bench.store.provenance import source_digest

MADE = "plots/made"  # of what, and which files
MADE_FORM = obj(files=each(text), sha256=of_all(text))
IN_RATES = ("removal_accuracy",)  # no heat map of its own: the figure `rates` says it


def write_figures(store: Store, records: Sequence[Record]) -> list[Path]:
    """Write every figure that the records have something for; those that the same code drew of the
    same records are kept."""
    of = {"records": digest(records), "code": source_digest(), "matplotlib": version("matplotlib")}
    made = store.read_record(MADE, MADE_FORM) or {}
    names, sums = [Path(name).name for name in made.get("files", [])], made.get("sha256", {})
    before = [store.path(f"plots/{n}") for n in names if n.endswith((".png", ".pdf"))]
    there = [path for path in before if path.is_file()]
    damaged = [p for p in there if p.name in sums and sums[p.name] != file_digest(p)]
    for path in damaged:
        store.say(f"{path} is damaged (its checksum does not match): it is drawn again")
    if made.get("of") == of and there == before and not damaged:
        return before
    import matplotlib  # drawing takes seconds

    makers = {"attacks": attacks, "tradeoff": tradeoff, "rates": rates, "losses": losses}
    makers |= {
        filename(matrix.name): partial(heat_map, matrix)
        for matrix in matrices(records)
        if matrix.way.name not in IN_RATES
    }
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, make in makers.items():
            found = make(records)
            pages = found if isinstance(found, list) else [found] if found else []
            for page, figure in enumerate(pages):
                title = f"{name}-{page + 1}" if page else name
                paths += save(figure, store.path(f"plots/{title}"))
    for path in set(before) - set(paths):  # of what the records have nothing for any more
        path.unlink(missing_ok=True)
    sums = {path.name: file_digest(path) for path in paths}
    store.write_record(MADE, {"of": of, "files": [path.name for path in paths], "sha256": sums})
    return paths
