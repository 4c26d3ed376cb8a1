"""The run folder: records with checksums, samples and weights as safetensors, every file written
whole or not at all.

OUT/cells/<key>.json                     one record a cell
OUT/samples/<key>.safetensors (.sha256)  its images
OUT/models/<key>.safetensors (.sha256)   attacked weights, and <key>.json what the attack reported
OUT/locks/                               who makes what at this moment; empty when nobody is at work
OUT/run.json table.* rows.csv grid.png   made from the above
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from t2i_backdoor_bench.contract import Cell, Record, Score, StorageError, UserError
from t2i_backdoor_bench.contract.hashing import canonical, digest, file_digest, plain
from t2i_backdoor_bench.store.arrays import read, write

WRONG = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)  # what reading a file of others can end with
# fields of a record that lie one level lower in its file, as they did when they were not a part of it
EXTRA = ("metric_keys", "directions", "protocol", "provenance", "edits", "done_before")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: a reader sees the old
    file or the whole new one.

    Raises StorageError where the folder does not take it. The temporary file is locked as long as
    this process lives (`sweep_partials`).
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = _open_partial(path)
        try:
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            os.close(handle)


def _open_partial(path: Path) -> tuple[int, Path]:
    """A new temporary file beside `path`, open and locked. A sweep may take it in the moment before
    the lock: then there is another."""
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent
        )
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: then no sweep gets one either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def sweep_partials(root: Path) -> int:
    """Remove the temporary files that killed processes left in a run folder, and say how many:
    those that nobody holds locked."""
    swept = 0
    for path in sorted(root.rglob(".*.partial")):
        with (
            contextlib.suppress(OSError),
            path.open("rb") as file,
        ):  # an error: it is gone, or held by a living process
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            swept += 1
    return swept


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raises StorageError, in one line, where the block finds that `path` cannot be written."""
    try:
        yield
    except Timeout:  # of a lock: an OSError that says nothing of the disk
        raise
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        full = getattr(error, "errno", None) in FULL or any(f"(os error {n})" in why for n in FULL)
        todo = (
            "free some space, and the same command goes on"
            if full
            else "make the folder writable, or choose another with --out"
        )
        raise StorageError(
            f"cannot write {path}: {why}; what was finished stays; {todo}"
        ) from error


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


class Store:
    """One run folder. What fails its checksum counts as absent, and `say` is told so in one line.
    With `fresh`, so does everything that was there when this object was made; `since` (a file time
    in ns) lets another process of the same run share that moment.
    """

    def __init__(
        self, root: Path, say: Callable[[str], None] = print, fresh: bool = False, since: int = 0
    ) -> None:
        self.root, self.say, self.since = Path(root), say, since
        self._written: set[Path] = set()
        self._said: set[Path] = set()
        self._claimed: set[str] = set()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                if fresh and not since:
                    self.since = os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            raise UserError(
                f"cannot write to the output folder {root}: {error.strerror}; choose another with"
                " --out"
            ) from None
        sweep_partials(self.root)

    # ---------------------------------------------------------------------------------------- locks
    @contextmanager
    def claim(self, name: str, wait: bool = False) -> Iterator[bool]:
        """Whether this process alone may make `name` for the length of the block; with `wait`, it
        waits until it may. A claim inside one of the same name holds with it. A process that dies
        gives up its claims."""
        if name in self._claimed:
            yield True
            return
        lock = FileLock(self.root / "locks" / f"{name.replace('/', '-')}.lock")
        try:
            with storing(Path(lock.lock_file)):
                Path(lock.lock_file).parent.mkdir(exist_ok=True)
                lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        self._claimed.add(name)
        try:
            yield True
        finally:
            self._claimed.discard(name)
            lock.release()

    def drop_locks(self) -> None:
        """Remove the lock files that nobody holds."""
        for path in sorted((self.root / "locks").glob("*.lock")):
            lock = FileLock(path)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self.root / "locks").rmdir()

    # -------------------------------------------------------------------------------------- records
    def write_record(self, name: str, payload: Any) -> None:
        """Store a JSON value as `<name>.json` with the checksum of its canonical text."""
        payload = plain(payload)
        record = {"sha256": digest(payload), "payload": payload}
        self._written.add(self.root / f"{name}.json")
        write_text(
            self.root / f"{name}.json",
            json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n",
        )

    def _path(self, name: str) -> Path:
        """The file of a name, which may come from a record of others: never one outside of the
        folder."""
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise UserError(
                f"{self.root} names the file {name!r}, which is outside of it: it is no run folder"
                " of this program"
            )
        return self.root / name

    def read_record(self, name: str) -> Any | None:
        path = self._path(f"{name}.json")
        if self._ignored(path):
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["sha256"] == digest(record["payload"]):
                return record["payload"]
        except FileNotFoundError:
            return None
        except WRONG:
            pass
        return self._damaged(path)

    def _ignored(self, path: Path) -> bool:
        if not self.since or path in self._written:
            return False
        try:
            return path.stat().st_mtime_ns <= self.since
        except FileNotFoundError:
            return False

    def _damaged(self, path: Path, why: str = "its checksum does not match") -> None:
        if path not in self._said:
            self.say(f"{path} is damaged ({why}): it counts as absent and is made again")
            self._said.add(path)

    # ---------------------------------------------------------------------------------------- files
    def write_file(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Store a file with its checksum beside it. The checksum goes first: nobody sees a whole
        file without it, and a kill in between leaves no false match."""
        path = self.root / name
        self._written.add(path)
        self._said.discard(path)

        def fill(partial: Path) -> None:
            write(partial)
            write_text(path.with_name(path.name + ".sha256"), file_digest(partial) + "\n")

        write_atomic(path, fill)
        return path

    def find_file(self, name: str) -> Path | None:
        """The stored file, or None if it is absent or damaged."""
        path = self._path(name)
        if self._ignored(path) or not path.is_file():
            return None
        mark = path.with_name(path.name + ".sha256")
        if not mark.is_file():
            return self._damaged(path, "it has no checksum: its writing was interrupted")
        if mark.read_bytes().strip() != file_digest(path).encode():
            return self._damaged(path)
        if path.suffix == ".safetensors":
            try:
                with safe_open(
                    path, framework="numpy"
                ):  # reads the header alone, and checks it against the size of the file
                    pass
            except (SafetensorError, OSError, ValueError) as error:
                return self._damaged(
                    path, f"it is no safetensors file: {str(error).splitlines()[0]}"
                )
        return path

    def checksum(self, name: str) -> str:
        """The stored checksum of a file, "" where there is none."""
        mark = self.root / f"{name}.sha256"
        return mark.read_text(encoding="utf-8", errors="replace").strip() if mark.is_file() else ""

    def damaged(self, name: str) -> bool:
        """Whether the file is there but does not match its checksum."""
        return (
            (self.root / name).is_file()
            and not self._ignored(self.root / name)
            and self.find_file(name) is None
        )

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray], meta: Any = None) -> None:
        """Store named arrays (bool as uint8) and a JSON value as safetensors."""
        self.write_file(f"{name}.safetensors", lambda path: write(path, arrays, canonical(meta)))

    def read_arrays(self, name: str) -> tuple[dict[str, np.ndarray], Any] | None:
        """The arrays, paged in from disk as they are looked at, and the JSON value; None where they
        are absent or damaged."""
        path = self.find_file(f"{name}.safetensors")
        if path is None:
            return None
        try:
            return read(path)
        except WRONG:
            return self._damaged(path)

    # ---------------------------------------------------------------------------------------- cells
    def write_result(self, record: Record) -> None:
        """Store the record of a cell."""
        fields = plain(record)
        extra = {k: fields.pop(k) for k in EXTRA}
        if not record.done_before:
            del extra["done_before"]
        self.write_record(f"cells/{record.cell.key}", fields | {"extra": extra})

    def read_result(self, key: str) -> Record | None:
        payload = self.read_record(f"cells/{key}")
        if payload is None:
            return None
        try:
            return parse_result(payload)
        except WRONG:
            return self._damaged(self.root / f"cells/{key}.json", "it is no record of a cell")

    def drop_result(self, key: str) -> None:
        """Forget the record of a cell that is made again."""
        path = self.root / "cells" / f"{key}.json"
        with storing(path):
            path.unlink(missing_ok=True)

    def all_results(self) -> list[Record]:
        """Every whole record in the folder, by attack, defense and seed."""
        found = [
            self.read_result(path.stem) for path in sorted((self.root / "cells").glob("*.json"))
        ]
        order = [r for r in found if r is not None]
        return sorted(
            order, key=lambda r: (r.cell.base, r.cell.attack, r.cell.defense, r.cell.seed)
        )


def parse_result(payload: Mapping[str, Any]) -> Record:
    """The inverse of `Store.write_result`. Raises ValueError or TypeError where a field is not what
    it must be: records travel."""
    fields = {k: v for k, v in payload.items() if k != "extra"}
    fields["cell"] = Cell(**fields["cell"])
    fields["scores"] = {name: Score(**score) for name, score in fields["scores"].items()}
    fields["needs"] = tuple(fields["needs"])
    extra = {k: v for k, v in dict(payload.get("extra", {})).items() if k in EXTRA}
    for name in ("provenance", "protocol"):  # what a stranger wrote there may be anything
        extra[name] = extra[name] if isinstance(extra.get(name), Mapping) else {}
    record = Record(**fields, **extra)
    cell = record.cell
    numbers = [v for s in record.scores.values() for v in (s.value, s.low, s.high)]
    networks = [s.network for s in record.scores.values()]
    texts = [cell.base, cell.attack, cell.defense, cell.key, record.status]
    if not all(isinstance(t, str) for t in [*texts, *record.needs, *networks]):
        raise ValueError("a name is no text")
    if not isinstance(cell.seed, int):
        raise ValueError("the seed is no number")
    if not all(v is None or isinstance(v, (int, float)) for v in numbers):
        raise ValueError("a score is no number")
    return record
