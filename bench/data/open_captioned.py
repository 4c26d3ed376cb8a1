"""Open captioned pictures: a hub id, a folder with captions, a table file beside its pictures,
parquet files, or a stream.

    --data
    NAME[,split=train][,caption=COLUMN][,image=COLUMN][,config=NAME][,revision=COMMIT][,rows=N][,stream]

Rows that cannot be used (no caption; a missing, broken or oversized picture; a caption that the
model would truncate) are left out. Lines count and name them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.caption_tables import library_table
from t2i_backdoor_bench.data.captioned import CaptionedImages, Row, into_splits
from t2i_backdoor_bench.data.captioned_folder import folder_table, named_tables, only_names_pictures
from t2i_backdoor_bench.data.image_files import NOTES
from t2i_backdoor_bench.data.picture_places import STATES, check_files
from t2i_backdoor_bench.data.table import (
    Table,
    caption_text,
    is_number,
    picture_bytes,
    row_label,
    some_of,
)
from t2i_backdoor_bench.data.verdicts import Verdicts

OPTIONS = ("split", "caption", "image", "config", "revision", "rows", "stream")
STREAM_ROWS = 10_000  # rows kept of a stream if the user gives no number
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Split "name,split=train,stream" into the name and its options. The longest path that exists
    is the name, whatever commas it has. Raises UserError."""
    parts = spec.split(",")
    paths = (i for i in range(len(parts), 1, -1) if exists(",".join(parts[:i]).strip()))
    many = next(paths, 1)
    name, rest = ",".join(parts[:many]), parts[many:]
    options: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.strip().partition("=")
        if (
            key not in OPTIONS
            or (not value and key != "stream")
            or (equals and key == "stream" and value not in ("true", "1"))
        ):
            raise UserError(
                f"--data {spec}: {part.strip()!r} is not an option; known:"
                f" {', '.join(OPTIONS[:-1])} (each with =VALUE), stream"
            )
        options[key] = value or "true"
    if "rows" in options and not (options["rows"].isdigit() and int(options["rows"]) > 0):
        raise UserError(
            f"--data {spec}: rows must be a whole number above 0, not {options['rows']!r}"
        )
    if not name.strip():
        raise UserError(
            "--data has no name; give a hub id, a folder of pictures with metadata.csv or"
            " metadata.jsonl, or parquet files"
        )
    return name.strip(), options


def exists(name: str) -> bool:
    """Whether a text is the path of something that exists."""
    try:
        return Path(name).exists()
    except OSError:  # such as a name that is too long
        return False


@dataclass
class _Counted:
    """The rows that are usable, those that are not by reason, and those that were read in a way
    that is worth a line."""

    rows: list[Row] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, *labels: str) -> None:
        self.left.setdefault(reason, []).extend(labels)

    def lines(self, name: str) -> list[str]:
        lost = sum(map(len, self.left.values()))
        parts = "; ".join(f"{len(v)} {k} ({some_of(v)})" for k, v in self.left.items())
        found = [f"{name}: {lost} of {lost + len(self.rows)} rows are left out: {parts}"]
        found = found if lost else []
        return found + [
            f"{name}: {len(v)} pictures {NOTES[k]} ({some_of(v)})" for k, v in self.notes.items()
        ]


def open_data(
    spec: str,
    side: int,
    fits: Callable[[str], bool],
    say: Callable[[str], None] = print,
    verdicts: Verdicts | None = None,
) -> CaptionedImages:
    """Open captioned pictures for a model of `side` pixels.

    `fits` tells whether a caption is short enough for the model; `say` gets the lines about rows
    that were left out, and about pictures that were changed to be read; `verdicts` has what earlier
    calls found out of the pictures, and gets what this one does. Raises UserError, in one line, for
    data that is not available, has no captions or pictures, or has no usable row.
    """
    name, options = parse(spec)
    table = _table(name, options, spec)
    counted = _count(table, name, fits, verdicts or Verdicts())
    for line in (*counted.lines(name), *table.notes):
        say(visible(line))
    rows = counted.rows
    if not rows:
        lost = sum(map(len, counted.left.values()))
        why = "; ".join(f"{len(v)} {k}" for k, v in counted.left.items())
        raise UserError(
            f"--data {spec}: none of its {lost} rows is a captioned picture that can be used"
            + (f": {why}" if why else "")
        )
    rows.sort(key=lambda r: (r.caption, r.digest))
    identity = hashlib.sha256("".join(f"{r.caption}\0{r.digest}\n" for r in rows).encode())
    return CaptionedImages(
        f"{Path(name).name} ({identity.hexdigest()[:16]})", into_splits(rows), side
    )


def _table(name: str, options: dict[str, str], spec: str) -> Table:
    """The rows that a name stands for, whatever it is the name of. Raises UserError."""
    most = int(options["rows"]) if "rows" in options else None
    if most is None and "stream" in options:
        most = STREAM_ROWS
    path = Path(name)
    if not exists(name):
        if _looks_like_a_path(path, name):
            raise UserError(f"--data {name}: there is no such file or folder")
        return library_table(name, options, (), most, spec)
    check_files(path)
    if path.is_file():
        if path.suffix.casefold() != ".parquet" or only_names_pictures(path):
            return folder_table(path, options, most, spec)
        return library_table(name, options, (path,), most, spec)
    if any((path / state).is_file() for state in STATES):
        return library_table(name, options, (), most, spec)
    shards = sorted(path.rglob("*.parquet"))
    if shards and not named_tables(path) and not only_names_pictures(shards[0]):
        return library_table(name, options, shards, most, spec)
    _check_archives(path, name)
    return folder_table(path, options, most, spec)


def _looks_like_a_path(path: Path, name: str) -> bool:
    deep = path.is_absolute() or name.startswith(".") or name.count("/") > 1
    return deep or path.suffix in (".parquet", ".csv")


def _check_archives(path: Path, name: str) -> None:
    """Raises UserError for archives: what is in them would be missing in silence."""
    if packed := sorted(p.name for p in path.rglob("*") if p.suffix.lower() in ARCHIVES):
        raise UserError(
            f"--data {name} contains {some_of(packed)}: archives are not unpacked, because a small"
            " one can fill the disk. Unpack the ones that you trust, and move them out of the"
            " folder"
        )


def _count(table: Table, name: str, fits: Callable[[str], bool], verdicts: Verdicts) -> _Counted:
    """Every row is either kept, or counted with its reason."""
    counted = _Counted()
    for i, (picture, value) in enumerate(progress(table.rows, f"open {name}", unit="row")):
        text, label = caption_text(value), row_label(picture, i)
        if not text or is_number(text):
            counted.leave("caption that is only a number" if text else "no caption", label)
            continue
        digest, look, read_now = verdicts.of(picture, table.place)
        problem = look.problem or ("" if fits(text) else "caption too long")
        if problem:
            counted.leave(problem, label)
            continue
        for note in look.notes:
            counted.notes.setdefault(note, []).append(label)
        counted.rows.append(Row(text, digest, _reader(table, i, read_now)))
    for reason, labels in table.left.items():
        counted.leave(reason, *labels)
    return counted


def _reader(table: Table, i: int, read_now: Callable[[], bytes]) -> Callable[[], bytes]:
    """A function that reads the picture of row `i` again: what was read of a stream, which can be
    read only once, and otherwise from the table."""
    again = table.again
    if again is None:
        data = read_now()
        return lambda: data
    return lambda: picture_bytes(again(i), table.place)
