"""`pack`: the records of a finished run as one compressed file, and back."""

from __future__ import annotations

from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.store.atomic import storing
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.packed import PACKED, read_packed, write_packed


def pack(folder: Path) -> str:
    """Put all records of a run folder into `cells.jsonl.xz`, and remove their own files once that
    has been read back. Returns a line that says what came of it. Raises UserError where there is no
    whole record, where one is damaged, or where another process works in the folder."""
    store, said = _open(folder)
    try:
        with store.alone() as alone:
            _check_alone(alone, folder)
            texts = {key: store.record_bytes(key) for key in store.record_keys()}
            whole = [key for key in texts if store.read_result(key) is not None]
            if said or len(whole) < len(texts) or not texts:
                why = said[0] if said else f"{folder} holds no record"
                raise UserError(f"nothing was packed: {why}")
            before = sum(map(len, texts.values()))
            path = store.path(PACKED)
            write_packed(path, texts)
            if read_packed(path) != texts:
                raise UserError(f"nothing was packed: {path} does not read as it was written")
            for file in store.files("cells", ".json"):
                with storing(file):
                    file.unlink()
            _drop_empty(store)
            after = path.stat().st_size
    finally:
        store.drop_locks()
    return f"{folder}: {len(texts)} records, {before:,} bytes, in {PACKED}, {after:,} bytes"


def unpack(folder: Path) -> str:
    """Give each record of a packed run folder a file of its own again. Raises UserError."""
    store, said = _open(folder)
    try:
        with store.alone() as alone:
            _check_alone(alone, folder)
            if not store.path(PACKED).is_file():
                raise UserError(f"{folder} holds no {PACKED}: there is nothing to unpack")
            keys = store.record_keys()
            if said:
                raise UserError(f"nothing was unpacked: {said[0]}")
            store.unpack_records()
    finally:
        store.drop_locks()
    return f"{folder}: {len(keys)} records in cells/"


def _open(folder: Path) -> tuple[Store, list[str]]:
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}")
    said: list[str] = []
    return Store(folder, said.append), said


def _check_alone(alone: bool, folder: Path) -> None:
    if not alone:
        raise UserError(
            f"another process works in {folder}, or its file system has no locks to see that by:"
            " nothing was changed"
        )


def _drop_empty(store: Store) -> None:
    place = store.path("cells")
    if place.is_dir() and not any(place.iterdir()):
        with storing(place):
            place.rmdir()
