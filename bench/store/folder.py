"""The run folder: records with checksums, samples and weights as safetensors, every file written
whole or not at all.

OUT/cells/<key>.json                     one record a cell; or all of them in OUT/cells.jsonl.xz
OUT/samples/<key>.safetensors (.sha256)  its images
OUT/models/<key>.safetensors (.sha256)   attacked weights, and <key>.json what the attack reported
OUT/training/<key>/                      where trainings that a kill ends go on, while they last
OUT/sources/<digest>.json                the source files that a stage of cells was made by
OUT/saved/<kind>-<key>/                  models that are handed out, each with a card (README.md)
OUT/locks/                               who makes what at this moment; not there when nobody works
OUT/run.json table.* rows.csv grid.png   made from the above
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.hashing import canonical, digest, file_digest, plain
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.contract.strict_json import parse
from t2i_backdoor_bench.store.array_forms import check_arrays
from t2i_backdoor_bench.store.arrays import read, write
from t2i_backdoor_bench.store.atomic import storing, sweep_partials, write_atomic, write_text
from t2i_backdoor_bench.store.forms import WRONG, Check, WrongForm, anything
from t2i_backdoor_bench.store.guard import check_folder, entries, inside
from t2i_backdoor_bench.store.locks import Locks
from t2i_backdoor_bench.store.packed import PackedRecords
from t2i_backdoor_bench.store.record_format import RECORD, as_json, parse_result

CELLS = "cells"
DIGEST = 80  # bytes of a file of a checksum, at most
MOST_SAID = 200  # letters of why a file is damaged


class Store:
    """One run folder. What fails its checksum counts as absent, and `say` is told so in one line.
    With `fresh`, so does everything that was there when this object was made; `since` (a file time
    in ns) lets another process of the same run share that moment. One that is `read_only` is not
    written to, not even to try whether it could be.
    """

    def __init__(
        self,
        root: Path,
        say: Callable[[str], None] = print,
        fresh: bool = False,
        since: int = 0,
        read_only: bool = False,
    ) -> None:
        self.root, self.say, self.since = Path(root), say, since
        self._written: set[Path] = set()
        self._reported: set[Path] = set()
        self._packed = PackedRecords(self.path, self._ignored, self._damaged)
        self._locks = Locks(self.root / "locks", made=not self.root.exists())
        if read_only:
            check_folder(self.root)
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            sweep_partials(self.root)  # refuses a folder with links
            with tempfile.TemporaryFile(dir=self.root) as file:
                if fresh and not since:
                    self.since = os.fstat(file.fileno()).st_mtime_ns
                    self._date_back()
        except OSError as error:
            raise UserError(
                f"cannot write to the output folder {root}: {error.strerror}; choose another with"
                " --out"
            ) from None

    def _date_back(self) -> None:
        """Give files that are dated ahead the time of now: what counts is that they were there."""
        for path in entries(self.root):
            if path.lstat().st_mtime_ns > self.since:
                os.utime(path, ns=(self.since, self.since), follow_symlinks=False)

    # ---------------------------------------------------------------------------------------- locks
    def claim(self, name: str, wait: bool = False) -> AbstractContextManager[bool]:
        """Whether this process alone may make `name` while the block runs (`Locks.claim`)."""
        return self._locks.claim(name, wait)

    def working(self) -> AbstractContextManager[None]:
        """A block in which this process works in the folder, beside others (`Locks.working`)."""
        return self._locks.working()

    def alone(self) -> AbstractContextManager[bool]:
        """Whether no other process works in the folder; none can begin while the block runs."""
        return self._locks.alone()

    def drop_locks(self) -> None:
        """Remove the lock files that nobody holds, and the folder if nothing came of it."""
        self._locks.drop()

    # -------------------------------------------------------------------------------------- records
    def write_record(self, name: str, payload: Any) -> None:
        """Store a JSON value as `<name>.json` with the checksum of its canonical text."""
        payload = plain(payload)
        record = {"sha256": digest(payload), "payload": payload}
        path = self.path(f"{name}.json")
        self._written.add(path)
        text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False)
        write_text(path, text + "\n")

    def path(self, name: str) -> Path:
        """The file of a name, which may come from a record of others: never one outside of the
        folder (`guard.inside`)."""
        return inside(self.root, name)

    def files(self, folder: str, suffix: str) -> list[Path]:
        """The files of a folder in it, by name; "" is the run folder itself."""
        place = self.path(folder) if folder else self.root
        found = entries(self.root, folder)
        return sorted(p for p in found if p.suffix == suffix and p.parent == place)

    def read_record(self, name: str, form: Check = anything) -> Any | None:
        """The JSON value of `<name>.json`; None where it is absent or damaged, as one that does not
        have the `form`."""
        path = self.path(f"{name}.json")
        if self._ignored(path):
            return None
        try:
            found = self.record_bytes(path.stem) if path.parent.name == CELLS else None
            record = parse(path.read_bytes() if found is None else found)
            if record["sha256"] != digest(record["payload"]):
                return self._damaged(path)
            form(record["payload"], "")
            return record["payload"]
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._damaged(path, error.strerror)
        except WrongForm as error:
            return self._damaged(path, f"it is not what this program writes: {error}")
        except WRONG as error:
            return self._damaged(path, f"it is no record: {error}")

    def _ignored(self, path: Path) -> bool:
        if not self.since or path in self._written:
            return False
        try:
            return path.stat().st_mtime_ns <= self.since
        except FileNotFoundError:
            return False

    def _damaged(self, path: Path, why: str = "its checksum does not match") -> None:
        if path not in self._reported:
            why = visible(why)[:MOST_SAID]
            self.say(f"{path} is damaged ({why}): it counts as absent and is made again")
            self._reported.add(path)

    # ---------------------------------------------------------------------------------------- files
    def write_file(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Store a file with its checksum beside it. The checksum goes first: nobody sees a whole
        file without it, and a kill in between leaves no false match."""
        path = self.path(name)
        self._written.add(path)
        self._reported.discard(path)

        def fill(partial: Path) -> None:
            write(partial)
            write_text(path.with_name(path.name + ".sha256"), file_digest(partial) + "\n")

        write_atomic(path, fill)
        return path

    def find_file(self, name: str) -> Path | None:
        """The stored file, or None if it is absent or damaged."""
        path, mark = self.path(name), self.path(f"{name}.sha256")
        if self._ignored(path) or not path.is_file():
            return None
        if not mark.is_file():
            return self._damaged(path, "it has no checksum: its writing was interrupted")
        try:
            right = self.checksum(name) == file_digest(path)
        except OSError as error:
            return self._damaged(path, error.strerror)
        if not right:
            return self._damaged(path)
        if path.suffix == ".safetensors":
            try:  # the header alone, against the size of the file
                with safe_open(path, framework="numpy"):
                    pass
            except (SafetensorError, OSError, ValueError) as error:
                why = str(error).splitlines()[0]
                return self._damaged(path, f"it is no safetensors file: {why}")
        return path

    def checksum(self, name: str) -> str:
        """The stored checksum of a file, "" where there is none."""
        mark = self.path(f"{name}.sha256")
        if not mark.is_file():
            return ""
        with mark.open("rb") as file:
            return file.read(DIGEST).decode(errors="replace").strip()

    def damaged(self, name: str) -> bool:
        """Whether the file is there but does not match its checksum."""
        path = self.path(name)
        return path.is_file() and not self._ignored(path) and self.find_file(name) is None

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
            arrays, meta = read(path)
            check_arrays(name, arrays, meta)
            return arrays, meta
        except (*WRONG, OSError) as error:
            return self._damaged(path, f"it is not what this program writes: {error}")

    # ---------------------------------------------------------------------------------------- cells
    def write_result(self, record: Record) -> None:
        """Store the record of a cell."""
        self.write_record(f"cells/{record.cell.key}", as_json(record))

    def read_result(self, key: str) -> Record | None:
        payload = self.read_record(f"cells/{key}", RECORD)
        return None if payload is None else parse_result(payload)

    def record_bytes(self, key: str) -> bytes | None:
        """The text of the record of a cell, whole or not; None where there is none."""
        path = self.path(f"{CELLS}/{key}.json")
        return path.read_bytes() if path.is_file() else self._packed.texts().get(key)

    def record_keys(self) -> list[str]:
        """The keys of all records, whole or not."""
        return sorted({p.stem for p in self.files(CELLS, ".json")} | set(self._packed.texts()))

    def unpack_records(self) -> None:
        """Give each record that is in the file of all a file of its own."""
        self._packed.unpack(lambda key: self.path(f"{CELLS}/{key}.json"))

    def drop_result(self, key: str) -> None:
        """Forget the record of a cell that is made again."""
        if key in self._packed.texts():
            self.unpack_records()
        path = self.path(f"cells/{key}.json")
        with storing(path):
            path.unlink(missing_ok=True)

    def drop_file(self, name: str) -> None:
        """Forget a file that is made again."""
        path, mark = self.path(name), self.path(f"{name}.sha256")
        with storing(path):
            path.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)

    def all_results(self) -> list[Record]:
        """Every whole record in the folder, by attack, defense and seed."""
        found = (self.read_result(key) for key in self.record_keys())
        cells = ((r.cell, r) for r in found if r is not None)
        order = sorted(cells, key=lambda c: (c[0].base, c[0].attack, c[0].defense, c[0].seed))
        return [record for _, record in order]
