"""Rows of pictures and captions: each is kept, or counted with the reason why it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.captioned import Row
from t2i_backdoor_bench.data.image_files import NOTES
from t2i_backdoor_bench.data.table import (
    Table,
    caption_text,
    is_number,
    picture_bytes,
    row_label,
    some_of,
)
from t2i_backdoor_bench.data.verdicts import Verdicts


@dataclass
class Counted:
    """The rows that are usable, those that are not by reason, and those that were read in a way
    that is worth a line."""

    rows: list[Row] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, *labels: str) -> None:
        self.left.setdefault(reason, []).extend(labels)

    @property
    def lost(self) -> int:
        return sum(map(len, self.left.values()))

    def why(self, named: int = 5) -> str:
        """The reasons with their counts, and the first of the rows by name."""
        return "; ".join(
            f"{len(v)} {k}" + (f" ({some_of(v, named)})" if named else "")
            for k, v in self.left.items()
        )

    def lines(self, name: str) -> list[str]:
        """What there is to say about the rows of a source."""
        found = [f"{name}: {self.lost} of {self.lost + len(self.rows)} rows are left out:"]
        found = [f"{found[0]} {self.why()}"] if self.lost else []
        return found + [
            f"{name}: {len(v)} pictures {NOTES[k]} ({some_of(v)})" for k, v in self.notes.items()
        ]


def count_rows(table: Table, name: str, fits: Callable[[str], bool], verdicts: Verdicts) -> Counted:
    """Every row is either kept, or counted with its reason."""
    counted = Counted()
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
