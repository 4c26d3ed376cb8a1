"""Open captioned pictures: a hub id, a folder with captions, parquet files, or a stream.

    --data
    NAME[,split=train][,caption=COLUMN][,image=COLUMN][,config=NAME][,revision=COMMIT][,rows=N][,stream]

Rows that cannot be used (no caption; a missing, broken or oversized picture; a caption that the
model would truncate) are left out. One line counts and names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.caption_tables import (
    caption_text,
    find_columns,
    load,
    reader,
    row_label,
    some_of,
    undecoded,
)
from t2i_backdoor_bench.data.captioned import CaptionedImages, Row, into_splits
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.verdicts import Verdicts

OPTIONS = ("split", "caption", "image", "config", "revision", "rows", "stream")
STREAM_ROWS = 10_000  # rows kept of a stream if the user gives no number
PROBLEMS = (
    "no caption",
    "missing picture",
    "broken picture",
    "picture too large",
    "caption too long",
)


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Split "name,split=train,stream" into the name and its options. Raises UserError."""
    name, *rest = spec.split(",")
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


def open_data(
    spec: str,
    side: int,
    fits: Callable[[str], bool],
    say: Callable[[str], None] = print,
    verdicts: Verdicts | None = None,
) -> CaptionedImages:
    """Open captioned pictures for a model of `side` pixels.

    `fits` tells whether a caption is short enough for the model; `say` gets the line about rows
    that were left out; `verdicts` has what earlier calls found out of the pictures, and gets what
    this one does. Raises UserError, in one line, for data that is not available, has no
    captions or pictures, or has no usable row.
    """
    name, options = parse(spec)
    table, place = load(name, options)
    image, caption = find_columns(table, options, spec)
    table = undecoded(table, image, caption, spec)
    known = verdicts or Verdicts()
    rows, problems, seen = _read_rows(name, options, table, place, image, caption, fits, known)
    if left := [f"{len(v)} {k} ({some_of(v)})" for k, v in problems.items() if v]:
        say(visible(f"{name}: {seen - len(rows)} of {seen} rows are left out: {'; '.join(left)}"))
    if not rows:
        raise UserError(
            f"--data {spec}: none of its {seen} rows is a captioned picture that can be used"
        )
    rows.sort(key=lambda r: (r.caption, r.digest))
    identity = hashlib.sha256("".join(f"{r.caption}\0{r.digest}\n" for r in rows).encode())
    return CaptionedImages(
        f"{Path(name).name} ({identity.hexdigest()[:16]})", into_splits(rows), side
    )


def _read_rows(
    name: str,
    options: dict[str, str],
    table: Any,
    place: Place,
    image: str,
    caption: str,
    fits: Callable[[str], bool],
    verdicts: Verdicts,
) -> tuple[list[Row], dict[str, list[str]], int]:
    """The usable rows, the labels of the others by problem, and the number of rows read."""
    stream = "stream" in options
    most = int(options["rows"]) if "rows" in options else STREAM_ROWS if stream else None
    rows: list[Row] = []
    problems: dict[str, list[str]] = {p: [] for p in PROBLEMS}
    seen = 0
    records = table.take(most) if most else table
    for i, record in enumerate(progress(records, f"open {name}", unit="row")):
        seen += 1
        text = caption_text(record[caption])
        if not text:
            problems["no caption"].append(row_label(record[image], i))
            continue
        digest, problem, read_now = verdicts.of(record[image], place)
        problem = problem or ("" if fits(text) else "caption too long")
        if problem:
            problems[problem].append(row_label(record[image], i))
            continue
        read = reader(table, image, i, place, read_now() if stream else None)
        rows.append(Row(text, digest, read))
    return rows, problems, seen
