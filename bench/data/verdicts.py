"""What is known of picture files, so that none is decoded, and no unchanged file read, twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t2i_backdoor_bench.data.image_files import Look, look
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.table import picture_bytes, picture_file

MISSING = Look("missing picture")


@dataclass
class Verdicts:
    """`files`: the size, the time of the last change in ns and the SHA-256 of each file, by its
    path. `looks`: what a picture is (`image_files.look`), by its SHA-256. `changed`: whether
    something was added.
    """

    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)
    changed: bool = False

    def of(self, value: Any, place: Place) -> tuple[str, Look, Callable[[], bytes]]:
        """The SHA-256 of a cell of a table of pictures, what it is (`MISSING`, or as
        `image_files.look`), and its content."""
        path = picture_file(value, place) if place.folder is not None else None
        if path is None:
            data = picture_bytes(value, place)
            return (*self._looked(data), lambda: data)
        found = path.stat()
        stamp = (found.st_size, found.st_mtime_ns)
        known = self.files.get(str(path))
        if known is not None and known[:2] == stamp and known[2] in self.looks:
            return known[2], self.looks[known[2]], path.read_bytes
        data = picture_bytes(value, place)
        digest, seen = self._looked(data)
        if data:
            self.files[str(path)] = (*stamp, digest)
            self.changed = True
        return digest, seen, lambda: data

    def _looked(self, data: bytes) -> tuple[str, Look]:
        if not data:
            return "", MISSING
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self.looks:
            self.looks[digest] = look(data)
            self.changed = True
        return digest, self.looks[digest]

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON can store it."""
        looks = {digest: [seen.problem, *seen.notes] for digest, seen in self.looks.items()}
        return {"files": self.files, "looks": looks}


def from_plain(stored: Mapping[str, Any]) -> Verdicts:
    files = {path: (size, time, digest) for path, (size, time, digest) in stored["files"].items()}
    looks = {digest: Look(found[0], tuple(found[1:])) for digest, found in stored["looks"].items()}
    return Verdicts(files, looks)
