"""A folder of pictures with their captions: in a table (metadata.csv and the like) that names each
picture, or in a .txt file beside each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.folder_files import FolderFiles, files_of, is_picture, last_parts, stem
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.table import CAPTIONS, Table, choose_column, some_of
from t2i_backdoor_bench.data.text_tables import (
    SUFFIXES,
    TextTable,
    names_pictures,
    read_table,
    text_of,
)

# names of columns that hold the file of a picture
FILES = (
    "file_name", "filename", "file", "image", "image_path", "path", "img", "picture",
    "file_path", "filepath", "image_file", "image_name", "img_path", "images",
)  # fmt: skip
LOOKED_AT = 100  # rows by which a column of files is told
RAGGED = "line with more values than columns, whose caption needs quotes"


@dataclass
class _Found:
    """`rows`: the file of a picture and its caption. `left`: rows that cannot be used, by reason.
    `counted`: what else there is to say, with the files that it is about."""

    rows: list[tuple[str, Any]] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    counted: dict[str, list[str]] = field(default_factory=dict)

    def count(self, where: dict[str, list[str]], what: str, names: Sequence[str]) -> None:
        if names:
            where.setdefault(what, []).extend(names)


def folder_table(path: Path, options: Mapping[str, str], most: int | None, spec: str) -> Table:
    """The first `most` rows of a folder of captioned pictures, or of a table file beside them.
    Raises UserError where there are no captions, or no picture of the split that was asked for."""
    root = path if path.is_dir() else path.parent
    files, found = files_of(root, options, spec), _Found()
    if tables := [path] if path.is_file() else _tables(files, spec):
        _read_tables(files, tables, options, spec, found)
    else:
        _read_texts(files, spec, found)
    home = root.resolve()
    rows = [({"path": str(home / p), "bytes": None}, c) for p, c in found.rows[:most]]
    notes = [f"{spec}: {len(v)} {what} ({some_of(v)})" for what, v in found.counted.items()]
    return Table(rows, Place(home), lambda i: rows[i][0], found.left, notes)


def named_tables(root: Path) -> list[Path]:
    """The files of a folder that are called metadata and hold a table."""
    named = (p for p in root.rglob("*") if p.stem.casefold() == "metadata" and p.is_file())
    return sorted(p for p in named if p.suffix.casefold() in SUFFIXES)


def only_names_pictures(path: Path) -> bool:
    """Whether a parquet file has the names of pictures, and not the pictures themselves."""
    return names_pictures(path, FILES)


def _tables(files: FolderFiles, spec: str) -> list[Path]:
    """The tables of the chosen split: those called metadata, or else the only one in the folder
    itself."""
    root = files.root
    found = [p for p in named_tables(root) if files.of_split(p.relative_to(root).as_posix())]
    if found:
        return found
    single = [p for p in sorted(root.iterdir()) if p.suffix.casefold() in SUFFIXES]
    if len(single) > 1:
        raise UserError(
            f"--data {spec} has several tables ({some_of([p.name for p in single])}): call the one"
            " with the captions metadata, or give its path instead of the folder's"
        )
    return single


def _read_tables(
    files: FolderFiles, tables: Sequence[Path], options: Mapping[str, str], spec: str, found: _Found
) -> None:
    lost: list[Any] = []
    for path in tables:
        table = read_table(path, {*FILES, *CAPTIONS, *map(str.casefold, options.values())})
        beside = path.parent.relative_to(files.root).as_posix()
        image, caption = _columns(files, table, beside, options, path, spec)
        if table.encoding:
            what = f"table is not UTF-8 and is read as {table.encoding}"
            found.count(found.counted, what, [path.name])
        lines = [f"{path.name} line {i}" for i in table.ragged]
        found.count(found.left, RAGGED, lines)
        moved = []
        for row in table.rows:
            file, elsewhere = files.find(row.get(image), beside)
            if not file:
                lost.append(row.get(image))
            elif files.of_split(file):
                found.rows.append((file, row.get(caption)))
                moved += [file] if elsewhere else []
        what = "pictures are in other folders than the table says, and were found by their names"
        found.count(found.counted, what, moved)
    found.count(found.left, "missing picture", last_parts(lost))
    named = {file for file, _ in found.rows}
    where = tables[0].name if len(tables) == 1 else "the tables"
    more = [p for p in files.pictures() if p not in named]
    found.count(found.counted, f"pictures have no row in {where}", more)


def _columns(
    files: FolderFiles,
    table: TextTable,
    beside: str,
    options: Mapping[str, str],
    path: Path,
    spec: str,
) -> tuple[str, str]:
    """The columns of the file and of the caption. Without a usual name, the column of the files is
    one where most values are files of the folder. Raises UserError."""
    if any(is_picture(c) and files.find(c, beside)[0] for c in table.columns):
        raise UserError(
            f"--data {spec}: {path.name} has no line with the names of its columns; put"
            " file_name,text above its first line"
        )
    seen = table.rows[:LOOKED_AT]
    share = {c: sum(bool(files.find(r.get(c), beside)[0]) for r in seen) for c in table.columns}
    by_name = {c.strip().casefold(): c for c in table.columns}
    usual = [n for n in FILES if n in by_name and share[by_name[n]]]
    likely = [c.strip().casefold() for c in table.columns if 2 * share[c] > len(seen)]
    known = (*usual, *likely, *FILES)
    image = choose_column("image", table.columns, options, known, spec, "file_name")
    choose_column("caption", table.columns, options, CAPTIONS, spec, "text")
    rest = [c for c in table.columns if c != image]
    return image, choose_column("caption", rest, options, CAPTIONS, spec, "text")


def _read_texts(files: FolderFiles, spec: str, found: _Found) -> None:
    """Pictures with a .txt of the same name."""
    pictures = {p: stem(p) for p in files.pictures()}
    texts = {stem(p): p for p in files.known if p.endswith(".txt") and files.of_split(p)}
    if not set(pictures.values()) & set(texts):
        raise UserError(
            f"--data {spec} has no captions: put a metadata.csv or metadata.jsonl with the columns"
            " file_name and text beside its pictures, or a .txt of the same name beside each"
        )
    several, other = [], []
    for picture, name in pictures.items():
        if name not in texts:
            continue
        text, encoding = text_of(files.known[texts[name]].read_bytes())
        lines = [line for line in text.splitlines() if line.strip()]
        found.rows.append((picture, lines[0] if lines else ""))
        several += [texts[name]] if len(lines) > 1 else []
        other += [texts[name]] if encoding else []
    bare = [p for p, name in pictures.items() if name not in texts]
    alone = [p for name, p in texts.items() if name not in set(pictures.values())]
    found.count(found.counted, "pictures have no .txt beside them", bare)
    found.count(found.counted, ".txt files have no picture beside them", alone)
    what = ".txt files have several lines, of which the first is the caption"
    found.count(found.counted, what, several)
    what = ".txt files are not UTF-8 and are read as Windows-1252 or UTF-16"
    found.count(found.counted, what, other)
