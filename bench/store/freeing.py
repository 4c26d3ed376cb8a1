"""What a run folder may lose, by kind: what is made again where it is needed. Never records,
run.json, run.yaml, prompts, sources, tables, figures, or models that were handed out.

Only what belongs to finished work is listed: what cells that are left will need stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from t2i_backdoor_bench.contract import Record, UserError, suggest
from t2i_backdoor_bench.contract.samples import PROBES
from t2i_backdoor_bench.store.atomic import is_abandoned, storing
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.guard import entries
from t2i_backdoor_bench.store.records import read_plan

KINDS = {
    "checkpoints": "of trainings that are finished",
    "weights": "attacked weights whose cells are all done; trained again where one is needed",
    "pictures": "of cells that are done; drawn again for a new metric, and not for tables",
    "maps": "attention maps of cells that are done; the pictures of them stay",
    "verdicts": "what was learned of picture files, which are then decoded again",
    "temporary": "what processes that are gone left behind",
}
# folders of pictures
DRAWN = ("samples", "harmless", *PROBES)
TRAINED, VERDICTS = "training", "pictures.json"


@dataclass
class Part:
    """The files of one kind that can go, and how many others stay as they are needed."""

    files: list[Path] = field(default_factory=list)
    needed: int = 0

    @property
    def size(self) -> int:
        return sum(path.lstat().st_size for path in self.files)


@dataclass
class Done:
    """What of a run is finished: the keys of the cells that are done, and the checksums of attacked
    weights that only they were made from. `all`: nothing of the plan is left."""

    cells: set[str]
    weights: set[str]
    all: bool


def open_ours(folder: Path) -> Store:
    """A run folder. Raises UserError where it is none of this program's, or holds a link."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}")
    said: list[str] = []
    store = Store(folder, said.append, read_only=True)
    if not read_plan(store):
        why = f" ({said[0].partition(': it counts')[0]})" if said else ""
        raise UserError(f"{folder} holds no run.json of this program: it is left alone{why}")
    return store


def find_parts(store: Store) -> dict[str, Part]:
    """What can go, by kind."""
    done = find_done(store)
    parts = {kind: Part() for kind in KINDS}
    for kind, path, free in _files(store, done):
        if free:
            parts[kind].files.append(path)
        else:
            parts[kind].needed += path.suffix != ".sha256"
    return parts


def find_done(store: Store) -> Done:
    """What is finished, by the records and the plan of run.json."""
    records = {r.cell.key: r for r in store.all_results()}
    planned = {c["key"]: (c["attack"], c["seed"]) for c in read_plan(store)["cells"]}
    left = {at for key, at in planned.items() if not _is_done(records.get(key))}
    done = {key for key, record in records.items() if _is_done(record)}
    weights = {records[key].origin("attack_weights") for key in done}
    needed = {
        records[key].origin("attack_weights")
        for key in done
        if (records[key].cell.attack, records[key].cell.seed) in left
    }
    return Done(done, weights - needed - {""}, not left)


def _is_done(record: Record | None) -> bool:
    return record is not None and record.status == "done"


def _files(store: Store, done: Done) -> Iterator[tuple[str, Path, bool]]:
    """Each file that is of a kind, and whether it can go."""
    for room, kind in (*((room, "pictures") for room in DRAWN), ("maps", "maps")):
        for path in entries(store.root, room):
            if path.suffix in (".safetensors", ".sha256"):
                # what is of no cell, such as pictures of the clean model, serves all of them
                yield kind, path, done.all or path.name.partition(".")[0] in done.cells
    for path in entries(store.root, "models"):
        if path.suffix in (".safetensors", ".sha256"):
            name = path.name.removesuffix(".sha256")
            yield "weights", path, store.checksum(f"models/{name}") in done.weights
    for path in entries(store.root, TRAINED):
        key = path.parent.name
        trained = store.path(f"models/{key}.json").is_file()
        yield "checkpoints", path, trained or key in done.cells
    if store.path(VERDICTS).is_file():
        yield "verdicts", store.path(VERDICTS), True
    for path in entries(store.root):
        if path.name.startswith(".") and path.name.endswith(".partial"):
            yield "temporary", path, is_abandoned(path)


def delete(store: Store, kinds: list[str]) -> int:
    """Remove the files of these kinds, and return how many bytes that frees. Raises UserError where
    another process works in the folder."""
    try:
        with store.alone() as alone:
            if not alone:
                raise UserError(
                    f"another process works in {store.root}, or its file system has no locks to"
                    " see that by: nothing was deleted"
                )
            parts = find_parts(store)  # now that nothing changes any more
            freed = sum(parts[kind].size for kind in kinds)
            for path in (path for kind in kinds for path in parts[kind].files):
                with storing(path):
                    path.unlink(missing_ok=True)
            _drop_empty(store)
    finally:
        store.drop_locks()
    return freed


def _drop_empty(store: Store) -> None:
    """Remove the folders of checkpoints that hold nothing any more."""
    place = store.path(TRAINED)
    if not place.is_dir():
        return
    for folder in [*(p for p in sorted(place.iterdir()) if p.is_dir()), place]:
        if not any(folder.iterdir()):
            with storing(folder):
                folder.rmdir()


def chosen(text: str) -> list[str]:
    """The kinds of a list such as "weights,pictures", or "all". Raises UserError."""
    asked = [kind.strip() for kind in text.split(",") if kind.strip()]
    if wrong := [kind for kind in asked if kind not in (*KINDS, "all")] or (
        [] if asked else [text]
    ):
        raise UserError(f"--delete {wrong[0]!r}: {suggest(wrong[0], (*KINDS, 'all'), 'kinds')}")
    return [kind for kind in KINDS if kind in asked or "all" in asked]


def listed(store: Store) -> list[str]:
    """What a folder may lose, a line a kind, and how to have it go."""
    parts = find_parts(store)
    lines = [f"{store.root} may lose (nothing is deleted without --delete):"]
    for kind, part in parts.items():
        stays = f"; {part.needed} more stay, as cells that are left need them" * bool(part.needed)
        size = f"{text_of(part.size):>9} in {len(part.files):>4} files"
        lines.append(f"  {kind:<11} {size}  {KINDS[kind]}{stays}")
    freed = sum(part.size for part in parts.values())
    lines.append(f"  {'all':<11} {text_of(freed):>9}")
    return [*lines, "records, run.json, prompts, sources, tables, figures and saved models stay"]


def text_of(size: int) -> str:
    """A number of bytes as people read it."""
    for unit, many in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= many:
            return f"{size / many:.1f} {unit}"
    return f"{size} bytes"
