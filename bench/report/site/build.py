"""Writes a site: a folder of files that needs no server and asks for nothing outside of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.report.html import page
from t2i_backdoor_bench.report.html.templates import printable, render
from t2i_backdoor_bench.report.metrics import LEAD, reading, shown_in
from t2i_backdoor_bench.report.site import boards, cells, methods
from t2i_backdoor_bench.report.site.names import around, method_address, slug
from t2i_backdoor_bench.report.site.runs import Run, read_runs
from t2i_backdoor_bench.store.atomic import write_atomic, write_text
from t2i_backdoor_bench.store.signatures import check_list

MARK = "site.json"  # lists the files of a site: a folder without it that holds files is not ours
Say = Callable[[str], None]


class Output:
    """The folder of a site: what is written is noted, and what an earlier site had beside it
    goes."""

    def __init__(self, root: Path) -> None:
        self.root, self.written = root, set[str]()
        self.earlier = _earlier(root)
        self._mark(self.earlier)  # a site that is not finished is one, too

    def text(self, address: str, text: str) -> None:
        path = self.root / address
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        self.written.add(address)

    def picture(self, ending: str, data: bytes) -> str:
        """Store a picture once; returns its address."""
        address = cells.picture_name(ending, data)
        if address not in self.written:
            path = self.root / address
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda partial: partial.write_bytes(data))
            self.written.add(address)
        return address

    def finish(self) -> None:
        for address in sorted(self.earlier - self.written):
            (self.root / address).unlink(missing_ok=True)
        self._mark(self.written)

    def _mark(self, files: set[str]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        write_text(self.root / MARK, json.dumps({"files": sorted(files)}, indent=0) + "\n")


def _earlier(root: Path) -> set[str]:
    """The files of the site that is in a folder. Raises UserError where other files are there."""
    if not root.exists():
        return set()
    mark = root / MARK
    if not root.is_dir() or (any(root.iterdir()) and not mark.is_file()):
        raise UserError(
            f"{root} holds other files than a site: name a new folder, so that nothing of yours is"
            " overwritten"
        )
    if not mark.is_file():
        return set()
    try:
        names = json.loads(mark.read_text(encoding="utf-8"))["files"]
        return {name for name in names if ".." not in Path(name).parts and name[:1] != "/"}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{mark} is damaged ({error}): name a new folder") from None


def write_site(
    out: Path, folders: Sequence[Path], say: Say = print, known: Path | None = None
) -> int:
    """Write the site of these run folders to `out`; `known` lists the keys of people, as in
    `store.signatures.check`. Returns 0. Raises UserError where a folder
    holds no finished cell, or `out` other files than a site."""
    if not folders:
        raise UserError("site OUT FOLDER...: name the run folders that it shall show")
    check_list(known)
    output, runs = Output(out), read_runs(folders, known)
    found = boards.boards_of(runs)
    _index(output, runs, found)
    for board in found:
        title = f"{board.kind}, protocol {board.protocol}, base models {board.family}"
        extra = {"board": boards.view(board), "trail": "Board of defenses"}
        _write(output, board.address, "site-board.html", title, ("state.js", "board.js"), **extra)
        output.text(f"boards/{board.name}.csv", boards.csv_text(board))
    _methods(output, runs)
    _compare(output, runs)
    for run in runs:
        say(f"{run.name}: {len(run.pairs)} cells")
        _run(output, run)
    output.finish()
    say(f"{out}/index.html: {len(found)} boards, {len(output.written)} files")
    return 0


def _write(
    output: Output, address: str, template: str, title: str, scripts: Sequence[str] = (), **values
) -> None:
    parts = page.shell(title, scripts, "", around(address))
    output.text(address, render(template, **parts, **values))


def _index(output: Output, runs: Sequence[Run], found: Sequence[boards.Board]) -> None:
    groups: dict[str, list[Any]] = {}
    for board in found:
        title = f"Protocol {board.protocol}, base models {board.family}"
        groups.setdefault(title, []).append(boards.card(board))
    extra = {"groups": [{"title": t, "boards": b} for t, b in groups.items()]}
    extra |= {"runs": [run.view() for run in runs]}
    title = "Leaderboards of defenses against backdoors in text-to-image models"
    _write(output, "index.html", "site-index.html", title, **extra)


def _methods(output: Output, runs: Sequence[Run]) -> None:
    found, known = methods.methods_of(runs), methods.known_methods()
    groups = [
        {
            "title": f"{kind.capitalize()}s",
            "methods": [methods.entry(k, r, known) for k, r in found.items() if k[0] == kind],
        }
        for kind in methods.KINDS
    ]
    _write(output, "methods/index.html", "site-methods.html", "Methods", groups=groups)
    for key, own in found.items():
        title = f"{key[1]}, {'an attack' if key[0] == 'attack' else 'a defense'}"
        view = methods.page_view(key, own, known)
        _write(output, method_address(*key), "site-method.html", title, method=view)


def _compare(output: Output, runs: Sequence[Run]) -> None:
    ways = {way.name: way for run in runs for way in shown_in("heat", run.records, lead=True)}
    ways = {LEAD: reading(runs[0].records, LEAD)} | ways
    told = {m: {"percent": w.percent, "better": w.better} for m, w in ways.items()}
    data = {"metrics": told, "runs": [_values(run, list(ways)) for run in runs]}
    extra = {
        "runs": [run.view() for run in runs],
        "metrics": [{"name": w.name, "title": w.title} for w in ways.values()],
        "data": printable(data),
    }
    scripts = ("state.js", "compare.js")
    _write(output, "compare.html", "site-compare.html", "Compare two runs", scripts, **extra)


def _values(run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    """The numbers of a run by metric and by pair of attack and defense."""
    keys = {pair: f"{slug(pair[0])}--{slug(pair[1])}" for pair in run.rows}
    found = {"slug": run.slug, "measured": run.measured_by, "family": run.family}
    found |= {"pairs": {keys[pair]: pair for pair in run.rows}}
    values = {
        m: {
            keys[pair]: [row[m], row.get(f"{m}_lo"), row.get(f"{m}_hi")]
            for pair, row in run.rows.items()
            if row.get(m) is not None
        }
        for m in metrics
    }
    return found | {"values": values}


def _run(output: Output, run: Run) -> None:
    """The page of a run, which is its report, and the pages of its cells."""
    site = around(run.address)
    links = {pair: f"{site['root']}{address}" for pair, address in run.cells.items()}
    text = page.render_page(run.store, run.records, [], [], site, links)
    output.text(run.address, text)
    prompts: dict[str, Any] = {}
    for pair, address in run.cells.items():
        view = cells.view(run, pair, output.picture, prompts)
        title = f"{pair[0]} × {pair[1]}"
        _write(output, address, "site-cell.html", title, cell=view)
