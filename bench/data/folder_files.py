"""The files of a folder of pictures, found by the names that tables give them.

Nothing outside of the folder is looked at: a name that leads elsewhere finds nothing.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from t2i_backdoor_bench.contract import UserError

# endings that a picture may have, also those that are then said not to be read
PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".ico", ".exr", ".hdr",
    ".eps", ".ppm", ".pgm", ".pbm", ".qoi", ".dds",
)  # fmt: skip
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


@dataclass
class FolderFiles:
    """The files of the folder `root` by their paths in it, with /. Of these, the pictures of a
    `split` are those in a folder of that name, and those in no folder of a split."""

    root: Path
    split: str
    known: dict[str, Path]
    named: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for path in self.known:
            pure = PurePosixPath(path)
            names = {folded(pure.name)} | ({folded(pure.stem)} if is_picture(path) else set())
            for name in names:
                self.named[name].append(path)

    def find(self, name: Any, beside: str) -> tuple[str, bool]:
        """The file that a table in the folder `beside` names, and whether it is elsewhere in the
        folder than the table says; "" where there is none, or several. A full path, as of another
        machine, counts by its last part."""
        text = str(name).strip().replace("\\", "/") if isinstance(name, (str, int)) else ""
        pure = PurePosixPath(text)
        if not pure.name or ".." in pure.parts:
            return "", False
        exact = str(PurePosixPath(beside) / pure)
        if exact in self.known:
            return exact, False
        whole = pure.is_absolute() or text[1:2] == ":"
        parts = tuple(map(folded, pure.parts))
        near = [p for p in self.named.get(parts[-1], ()) if whole or _ends(p, parts[:-1])]
        if len(near) != 1:
            return "", False
        plain = {folded(near[0]), folded(str(PurePosixPath(near[0]).with_suffix("")))}
        return near[0], folded(exact) not in plain

    def of_split(self, path: str) -> bool:
        return split_of(path) in ("", self.split)

    def pictures(self) -> list[str]:
        """The paths of the split's pictures."""
        return [p for p in self.known if is_picture(p) and self.of_split(p)]


def files_of(root: Path, options: Mapping[str, str], spec: str) -> FolderFiles:
    """The files of a folder, without hidden ones. Raises UserError where it has folders of splits,
    and none of the split that was asked for."""
    found = {p.relative_to(root): p for p in sorted(root.rglob("*")) if p.is_file()}
    known = {
        path.as_posix(): file
        for path, file in found.items()
        if not any(part.startswith((".", "__MACOSX")) for part in path.parts)
    }
    wanted = options.get("split", "train")
    wanted = SPLIT_FOLDERS.get(wanted.casefold(), wanted)
    pictures = [split_of(p) for p in known if is_picture(p)]
    if wanted not in {*pictures, *(["train"] if "" in pictures or not pictures else [])}:
        have = ", ".join(sorted({*pictures} - {""})) or "none"
        raise UserError(
            f"--data {spec}: there is no folder of the split {wanted!r}; those that there are:"
            f" {have} (split=NAME)"
        )
    return FolderFiles(root, wanted, known)


def _ends(path: str, folders: Sequence[str]) -> bool:
    """Whether the way to a file ends with these folders."""
    own = folded(path).split("/")[:-1]
    return own[len(own) - len(folders) :] == list(folders) if len(folders) <= len(own) else False


def folded(name: str) -> str:
    """A name as file systems that ignore case and ways to write accents compare it."""
    return unicodedata.normalize("NFC", name).casefold()


def is_picture(path: str) -> bool:
    return path.casefold().endswith(PICTURES)


def split_of(path: str) -> str:
    """The split that a folder on the way to a file names; "" for none."""
    folders = [f.casefold() for f in PurePosixPath(path).parts[:-1]]
    return next((SPLIT_FOLDERS[f] for f in folders if f in SPLIT_FOLDERS), "")


def stem(path: str) -> str:
    """The path without the ending of its file."""
    return str(PurePosixPath(path).with_suffix(""))


def last_parts(names: Sequence[Any]) -> list[str]:
    """The file names alone of what a table has as names, for a line to the user."""
    return [PurePosixPath(str(n or "").replace("\\", "/")).name[:200] or "no name" for n in names]
