"""All records of a run folder in one compressed file, `cells.jsonl.xz`: a JSON line a record, by
name, with the text that its own file had, so that checksums and signatures of records still hold.

The same records give the same bytes. Nothing of the text is trusted by this: each record is checked
when it is read, as one in a file of its own is.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from t2i_backdoor_bench.contract.strict_json import parse
from t2i_backdoor_bench.store.atomic import storing, write_atomic
from t2i_backdoor_bench.store.forms import WRONG

PACKED = "cells.jsonl.xz"
# unpacked, so that a small file cannot fill the memory; 1000 cells take 60 MB
MOST_BYTES = 2**29
MOST_RECORDS = 100_000
MEMORY = 2**26  # that unpacking may take beside the text
PRESET = 6
BLOCK = 2**20
KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


def write_packed(path: Path, texts: Mapping[str, bytes]) -> None:
    """Write the texts of records by key as one file, whole or not at all."""
    lines = [
        json.dumps({"key": key, "text": texts[key].decode()}, ensure_ascii=False) + "\n"
        for key in sorted(texts)
    ]
    data = lzma.compress("".join(lines).encode(), preset=PRESET)
    write_atomic(path, lambda partial: partial.write_bytes(data))


def read_packed(path: Path) -> dict[str, bytes]:
    """The texts of records by key. Raises ValueError for a file that `write_packed` did not write,
    or that holds more than a run does; OSError as reading does."""
    found: dict[str, bytes] = {}
    for line in _unpacked(path).splitlines():
        entry = parse(line)
        if not isinstance(entry, dict) or set(entry) != {"key", "text"}:
            raise ValueError("a line of it is no record")
        key, text = entry["key"], entry["text"]
        if not (isinstance(key, str) and isinstance(text, str) and KEY.fullmatch(key)):
            raise ValueError("a line of it has no key of a record, or no text")
        if key in found or len(found) >= MOST_RECORDS:
            raise ValueError("a record is in it twice, or too many are")
        found[key] = text.encode()
    return found


def _unpacked(path: Path) -> bytes:
    parts, size = [], 0
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
    try:
        with path.open("rb") as file:
            while not stream.eof:
                data = file.read(BLOCK) if stream.needs_input else b""
                if stream.needs_input and not data:
                    raise ValueError("it ends too early")
                parts.append(stream.decompress(data, BLOCK))
                size += len(parts[-1])
                if size > MOST_BYTES:
                    raise ValueError(f"it holds more than {MOST_BYTES:,} bytes")
            if stream.unused_data or file.read(1):
                raise ValueError("something stands behind its end")
    except lzma.LZMAError as error:
        raise ValueError(f"it is not what xz writes: {error}") from None
    return b"".join(parts)


class PackedRecords:
    """The texts of the records of a run folder that are in one file, read once. `place` gives the
    file of a name; `ignored`: whether a file counts as absent; `damaged` is told of one that cannot
    be read, and why."""

    def __init__(
        self,
        place: Callable[[str], Path],
        ignored: Callable[[Path], bool],
        damaged: Callable[[Path, str], None],
    ) -> None:
        self.place, self.ignored, self.damaged = place, ignored, damaged
        self._texts: dict[str, bytes] | None = None

    def texts(self) -> dict[str, bytes]:
        """By key."""
        if self._texts is None:
            path, self._texts = self.place(PACKED), {}
            if path.is_file() and not self.ignored(path):
                try:
                    self._texts = read_packed(path)
                except (*WRONG, OSError, MemoryError) as error:
                    self.damaged(path, str(error))
        return self._texts

    def unpack(self, file_of: Callable[[str], Path]) -> None:
        """Write each text that has no file of its own into `file_of(key)`, and drop the file of
        all."""
        for key, text in self.texts().items():
            path = file_of(key)
            if not path.is_file():
                write_atomic(path, lambda partial, text=text: partial.write_bytes(text))
        whole = self.place(PACKED)
        with storing(whole.parent):
            whole.unlink(missing_ok=True)
        self._texts = {}
