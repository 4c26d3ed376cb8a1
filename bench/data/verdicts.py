"""What is known of picture files, so that none is decoded, and no unchanged file read, twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t2i_backdoor_bench.data.caption_tables import picture_bytes, picture_file
from t2i_backdoor_bench.data.image_files import check_picture
from t2i_backdoor_bench.data.picture_places import Place


@dataclass
class Verdicts:
    """`files`: the size, the time of the last change in ns and the SHA-256 of each file, by its
    path. `problems`: what is wrong with a picture ("" for a good one), by its SHA-256. `changed`:
    whether something was added.
    """

    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    changed: bool = False

    def of(self, value: Any, place: Place) -> tuple[str, str, Callable[[], bytes]]:
        """The SHA-256 of a cell of a table of pictures, what is wrong with it ("missing picture",
        or as `check_picture`), and its content."""
        path = picture_file(value, place) if place.folder is not None else None
        if path is None:
            data = picture_bytes(value, place)
            return (*self._checked(data), lambda: data)
        found = path.stat()
        stamp = (found.st_size, found.st_mtime_ns)
        known = self.files.get(str(path))
        if known is not None and known[:2] == stamp and known[2] in self.problems:
            return known[2], self.problems[known[2]], path.read_bytes
        data = picture_bytes(value, place)
        digest, problem = self._checked(data)
        if data:
            self.files[str(path)] = (*stamp, digest)
            self.changed = True
        return digest, problem, lambda: data

    def _checked(self, data: bytes) -> tuple[str, str]:
        if not data:
            return "", "missing picture"
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self.problems:
            self.problems[digest] = check_picture(data)
            self.changed = True
        return digest, self.problems[digest]

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON can store it."""
        return {"files": self.files, "problems": self.problems}


def from_plain(stored: Mapping[str, Any]) -> Verdicts:
    files = {path: (size, time, digest) for path, (size, time, digest) in stored["files"].items()}
    return Verdicts(files, dict(stored["problems"]))
