"""Open captioned pictures: a hub id, a folder with captions, a table file beside its pictures,
parquet files, a stream, or a .txt of prompts without pictures.

    --data
    NAME[,split=train][,caption=COLUMN][,image=COLUMN][,config=NAME][,revision=COMMIT][,rows=N][,stream]

Rows that cannot be used (no caption; a missing, broken or oversized picture; a caption that the
model would truncate) are left out. Lines count and name them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.data.caption_tables import library_table
from t2i_backdoor_bench.data.captioned import CaptionedImages, Row, into_splits
from t2i_backdoor_bench.data.captioned_folder import folder_table, named_tables, only_names_pictures
from t2i_backdoor_bench.data.counted import count_rows
from t2i_backdoor_bench.data.folder_files import is_picture
from t2i_backdoor_bench.data.picture_places import STATES, check_files
from t2i_backdoor_bench.data.table import Table, some_of
from t2i_backdoor_bench.data.text_tables import text_of
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
    if exists(name) and Path(name).is_file() and Path(name).suffix.casefold() == ".txt":
        return _prompts_alone(Path(name), spec, side, fits, say)
    table = _table(name, options, spec)
    counted = count_rows(table, name, fits, verdicts or Verdicts())
    for line in (*counted.lines(name), *table.notes):
        say(visible(line))
    rows = counted.rows
    if not rows:
        raise UserError(
            f"--data {spec}: none of its {counted.lost} rows is a captioned picture that can be"
            f" used{': ' if counted.left else ''}{counted.why(0)}"
        )
    rows.sort(key=lambda r: (r.caption, r.digest))
    identity = hashlib.sha256("".join(f"{r.caption}\0{r.digest}\n" for r in rows).encode())
    return CaptionedImages(
        f"{Path(name).name} ({identity.hexdigest()[:16]})", into_splits(rows), side
    )


def _prompts_alone(
    path: Path, spec: str, side: int, fits: Callable[[str], bool], say: Callable[[str], None]
) -> CaptionedImages:
    """A file with a prompt a line, as data without pictures. Raises UserError."""
    check_files(path)
    text, encoding = text_of(path.read_bytes())
    if encoding:
        say(visible(f"{path} is not UTF-8 and is read as {encoding}"))
    prompts = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if 2 * sum(is_picture(re.split(r"[,;\t|]", p)[0]) for p in prompts) > len(prompts):
        raise UserError(
            f"--data {spec} names pictures, and a .txt is read as prompts alone: call it .csv"
        )
    if long := [f"line {i}" for i, prompt in enumerate(prompts, 1) if not fits(prompt)]:
        many = f"{len(long)} of {len(prompts)} prompts are left out"
        say(visible(f"{path}: {many}: {len(long)} prompt too long ({some_of(long)})"))
    kept = sorted({p.casefold(): p for p in prompts if fits(p)}.values())
    if not kept:
        raise UserError(f"--data {spec}: none of its {len(prompts)} lines is a prompt to be used")
    digests = [hashlib.sha256(p.encode(errors="backslashreplace")).hexdigest() for p in kept]
    rows = [Row(p, d, bytes) for p, d in zip(kept, digests, strict=True)]
    identity = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    return CaptionedImages(f"{path.name} ({identity})", into_splits(rows), side, pictures=False)


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
