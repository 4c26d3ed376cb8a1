"""Tables of texts as people write them: CSV with any separator, JSON lines, JSON, and parquet that
names its pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError

SEPARATED, LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")
SUFFIXES = (*SEPARATED, *LINES, ".json", ".parquet")
SEPARATORS = ",;\t|"
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass
class TextTable:
    """`rows` by column. `ragged` has the numbers of the lines with more values than columns: their
    captions have separators without quotes. `encoding` is set where the file is not UTF-8."""

    columns: list[str]
    rows: list[dict[str, Any]]
    ragged: list[int] = field(default_factory=list)
    encoding: str = ""


def text_of(data: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding where that is not UTF-8: with a byte order mark what
    that says, and else Windows-1252, which has the letters of Latin-1."""
    for mark, encoding in BOMS.items():
        if data.startswith(mark):
            return data.decode(encoding, "replace"), "" if encoding == "utf-8-sig" else "UTF-16"
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), "Windows-1252"


def read_table(path: Path, known: Collection[str]) -> TextTable:
    """The rows of a table file. `known` are names of columns, in lower case, by which the separator
    is told. Raises UserError, naming the file."""
    try:
        if path.suffix.casefold() == ".parquet":
            return _parquet(path)
        text, encoding = text_of(path.read_bytes())
        if path.suffix.casefold() in SEPARATED:
            found = _separated(text, known)
        else:
            found = _objects(text, path.suffix.casefold() in LINES)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--data: {path} cannot be read: {why}") from None
    found.encoding = encoding
    return found


def _separated(text: str, known: Collection[str]) -> TextTable:
    lines = text.splitlines(keepends=True)
    given = ""
    if lines and lines[0].casefold().startswith("sep="):  # as spreadsheets write it
        given, lines = lines[0][4:].strip("\r\n"), lines[1:]

    def header(separator: str) -> list[str]:
        return [c.strip() for c in next(csv.reader(lines, delimiter=separator), [])]

    def fit(separator: str) -> tuple[int, int]:
        found = header(separator)
        return sum(c.casefold() in known for c in found), len(found)

    separator = given if len(given) == 1 else max(SEPARATORS, key=fit)
    columns, table = header(separator), TextTable([], [])
    reader = csv.reader(lines, delimiter=separator)
    next(reader, None)
    for values in reader:
        if len(values) > len(columns) and any(v.strip() for v in values[len(columns) :]):
            table.ragged.append(reader.line_num)
        elif values:
            table.rows.append(dict(zip(columns, values)))
    table.columns = list(dict.fromkeys(columns))
    return table


def _objects(text: str, by_line: bool) -> TextTable:
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows = []
    if by_line:
        for i, line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {i} is no JSON ({error})") from None
    else:
        rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of objects with a name and a caption each")
    return TextTable(list(dict.fromkeys(c for row in rows for c in row)), rows)


def _parquet(path: Path) -> TextTable:
    import pyarrow

    try:
        import pyarrow.parquet

        found = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from None
    return TextTable(list(found.column_names), found.to_pylist())


def names_pictures(path: Path, known: Collection[str]) -> bool:
    """Whether a parquet file has the names of pictures in a column of one of the `known` names, and
    not the pictures themselves."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException):
        return False
    text = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    columns = [f for f in schema if f.name.strip().casefold() in known]
    return bool(columns) and all(any(t(f.type) for t in text) for f in columns)
