"""Pictures that another tool drew, with the prompts that it drew them of; and pictures to compare
them with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2i_backdoor_bench.contract import Prompt, UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.captioned import Row, with_others
from t2i_backdoor_bench.data.captioned_folder import FILES, folder_table, table_of
from t2i_backdoor_bench.data.counted import count_rows
from t2i_backdoor_bench.data.folder_files import FolderFiles, files_of
from t2i_backdoor_bench.data.image_files import decode, square
from t2i_backdoor_bench.data.picture_places import Place, check_files
from t2i_backdoor_bench.data.table import CAPTIONS, Table, caption_text, choose_column
from t2i_backdoor_bench.data.text_tables import SUFFIXES, text_of
from t2i_backdoor_bench.data.verdicts import Verdicts

LARGEST = 512  # px: larger pictures are scaled down, as every network that measures is smaller
ANY = "a picture"  # stands for the captions that reference pictures need not have


@dataclass(frozen=True)
class Drawn:
    """`images`, uint8 (n, side, side, 3), and the prompt of each. `diverse` has the first
    `per_prompt` pictures of each prompt that has several, prompt by prompt. `digests` are of the
    files."""

    images: np.ndarray
    prompts: list[Prompt]
    diverse: np.ndarray
    per_prompt: int
    digests: frozenset[str]

    @property
    def side(self) -> int:
        return self.images.shape[1]


def read_drawn(folder: Path, prompts: Path | None, say: Callable[[str], None]) -> Drawn:
    """The pictures of a folder with their prompts: those of a file, or else captions in the folder
    itself (`captioned_folder`).

    A file of prompts is a text with a prompt a line, in the order of the names of the pictures (or
    several pictures for each prompt, as many for each), or a table that names the pictures. Raises
    UserError where they do not fit together.
    """
    table = _table_of_drawn(folder, prompts, say)
    rows = _usable(table, folder, say)
    data = [row.read() for row in rows]
    sizes = [decode(d).size for d in data]
    side = min(Counter(map(min, sizes)).most_common(1)[0][0], LARGEST)
    if other := sum(size != (side, side) for size in sizes):
        say(f"{folder}: {other} pictures are cropped to squares, or scaled, to {side} px")
    images = _squares(data, side)
    texts = list(dict.fromkeys(row.caption for row in rows))
    asked = {text: with_others(text, texts, {text.casefold()}) for text in texts}
    diverse, many = _diverse(images, rows)
    digests = frozenset(row.digest for row in rows)
    return Drawn(images, [asked[row.caption] for row in rows], diverse, many, digests)


def read_reference(folder: Path, drawn: Drawn, say: Callable[[str], None]) -> np.ndarray:
    """All pictures of a folder, of the size of those that were drawn: uint8 (n, side, side, 3).
    Raises UserError."""
    files = _files(folder)
    rows = _usable(_in_place(folder, [(path, ANY) for path in files.pictures()]), folder, say)
    if same := sum(row.digest in drawn.digests for row in rows):
        say(
            f"{folder}: {same} reference pictures are among those that are scored: distances to"
            " them are too small"
        )
    return _squares([row.read() for row in rows], drawn.side)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2.png before 10.png."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def _files(folder: Path) -> FolderFiles:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    check_files(folder)
    return files_of(folder, {}, str(folder))


def _table_of_drawn(folder: Path, prompts: Path | None, say: Callable[[str], None]) -> Table:
    files = _files(folder)
    if prompts is None:
        return folder_table(folder, {}, None, str(folder))
    if not prompts.is_file():
        raise UserError(f"there is no file of prompts {prompts}")
    listed = _listed(prompts, files)
    if listed is None:
        return folder_table(folder, {}, None, str(folder), elsewhere=prompts.resolve())
    pictures = sorted(files.pictures(), key=natural)
    if not listed or not pictures or len(pictures) % len(listed):
        raise UserError(
            f"{folder} has {len(pictures)} pictures and {prompts} has {len(listed)} prompts: give a"
            " prompt a line for each picture, in the order of their names, or a table with the"
            " columns file_name and text"
        )
    many = len(pictures) // len(listed)
    if many > 1:
        first = ", ".join(pictures[:many][:3])
        say(f"{folder}: {many} pictures a prompt, in the order of names: {first} are of the first")
    return _in_place(folder, [(path, listed[i // many]) for i, path in enumerate(pictures)])


def _listed(prompts: Path, files: FolderFiles) -> list[str] | None:
    """The prompts of a file in their order; None where it is a table that names pictures."""
    if prompts.suffix.casefold() not in SUFFIXES:
        lines = text_of(prompts.read_bytes())[0].splitlines()
        return [line.strip() for line in lines if line.strip()]
    table = table_of(prompts, {})
    if any(c.strip().casefold() in FILES for c in table.columns):
        return None
    if any(files.find(row.get(c), "")[0] for row in table.rows[:100] for c in table.columns):
        return None
    column = choose_column("caption", table.columns, {}, CAPTIONS, str(prompts), "text")
    return [text for row in table.rows if (text := caption_text(row.get(column)))]


def _in_place(folder: Path, rows: Sequence[tuple[str, str]]) -> Table:
    home = folder.resolve()
    values = [({"path": str(home / path), "bytes": None}, text) for path, text in rows]
    return Table(values, Place(home), lambda i: values[i][0])


def _usable(table: Table, folder: Path, say: Callable[[str], None]) -> list[Row]:
    counted = count_rows(table, str(folder), lambda text: True, Verdicts())
    for line in (*counted.lines(str(folder)), *table.notes):
        say(visible(line))
    if not counted.rows:
        raise UserError(
            f"{folder} has no picture that can be used{': ' if counted.left else ''}"
            f"{counted.why(0)}"
        )
    return counted.rows


def _squares(data: Sequence[bytes], side: int) -> np.ndarray:
    images = np.empty((len(data), side, side, 3), np.uint8)
    for i, content in enumerate(progress(data, "read pictures", unit="picture")):
        images[i] = square(decode(content), side)
    return images


def _diverse(images: np.ndarray, rows: Sequence[Row]) -> tuple[np.ndarray, int]:
    """The first k pictures of each prompt that has several, where k is the fewest of these; and
    k."""
    of: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        of.setdefault(row.caption, []).append(i)
    groups = [found for found in of.values() if len(found) > 1]
    many = min(map(len, groups), default=1)
    picks = [i for found in groups for i in found[:many]]
    return images[picks], many
