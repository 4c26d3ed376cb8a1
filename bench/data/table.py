"""Rows of pictures and captions, wherever they come from, and what their cells hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.picture_places import Place

# names of columns, as tables that are published have them
CAPTIONS = ("caption", "text", "prompt", "captions", "txt", "sentence", "sentences", "description")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Table:
    """`rows` has a picture and a caption of each row, as the source has them; `again` gives the
    picture of a row once more, None where the rows can be read only once. `left` has rows that the
    source itself could not use, by reason; `notes` are lines for the user."""

    rows: Iterable[tuple[Any, Any]]
    place: Place
    again: Callable[[int], Any] | None
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def choose_column(
    kind: str,
    columns: Sequence[str],
    options: Mapping[str, str],
    known: Sequence[str],
    spec: str,
    usual: str = "",
) -> str:
    """The column of this `kind`, "image" or "caption": the one that the user names, or else the
    first of the `known` names, in any case. Raises UserError where there is none, with the `usual`
    name where the user can rename it."""
    choice = options.get(kind)
    if choice is not None and choice not in columns:
        raise UserError(
            f"--data {spec}: there is no column {choice!r}; columns: {', '.join(columns)}"
        )
    by_name = {c.strip().casefold(): c for c in reversed(columns)}
    found = choice or next((by_name[n] for n in known if n in by_name), None)
    if found is None:
        way = f"{kind}=COLUMN" + (f", or call it {usual}" if usual else "")
        raise UserError(
            f"--data {spec}: no {kind} column was recognized; name one with {way}:"
            f" {', '.join(columns)}"
        )
    return found


def caption_text(value: Any) -> str:
    """The caption in one line; of several, the first. A number as its digits."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    if isinstance(value, (int, float)):
        return str(value)
    return " ".join(value.split()) if isinstance(value, str) else ""


def is_number(caption: str) -> bool:
    """Whether a caption is a number and nothing else, as the classes of a data set are."""
    return bool(caption) and caption.lstrip("+-").replace(".", "", 1).isdigit()


def row_label(value: Any, i: int) -> str:
    path = value.get("path") if isinstance(value, dict) else None
    return Path(path).name if path else f"row {i}"


def picture_bytes(value: Any, place: Place) -> bytes:
    """The content of a picture file, or b"" if it is missing. What the table holds of it counts;
    its path is looked at only where `place` says that it is one of the data set's own."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, dict):
        return b""
    if isinstance(value.get("bytes"), (bytes, bytearray)):
        return bytes(value["bytes"])
    path = value.get("path")
    return place.read(path) if isinstance(path, str) else b""


def picture_file(value: Any, place: Place) -> Path | None:
    """The file of a picture that a table names by its path; None where it holds the picture itself,
    or names no file that may be read."""
    if not isinstance(value, dict) or value.get("bytes") or not isinstance(value.get("path"), str):
        return None
    return place.file(value["path"])


def some_of(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(
        [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    )
