"""Text of others - names, option values, prompts, captions - in the outputs of this program: it can
break or forge none of them."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

HIDDEN = (
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
)  # Unicode categories of what does not print, or changes how the rest prints


def visible(text: str) -> str:
    r"""`text` with what does not print as its code, such as \x1b or \u200b: no terminal command, no
    turned writing direction, one line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_code(c) if unicodedata.category(c) in HIDDEN else c for c in text)


def _code(letter: str) -> str:
    number = ord(letter)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def lines(text: str) -> str:
    """As `visible`, for text of several lines."""
    return "\n".join(visible(line) for line in text.split("\n"))


MOVES = re.compile(r"(\n|\r|\x1b\[A)*")  # what progress bars write between their texts
BAR = re.compile(r"(\r?)(.*?)(\r?)", re.DOTALL)  # a bar that is written over the last one


class Printable(io.TextIOBase):
    """A terminal or a file that gets text as `lines` has it. What libraries write - their warnings,
    and the names in them - goes through it, too. Only whole moves of a progress bar pass."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if not MOVES.fullmatch(text):
            begin, inner, end = BAR.fullmatch(text).groups()
            self.stream.write(begin + lines(inner) + end)
        else:
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:
        return self.stream.encoding


@contextlib.contextmanager
def printable_stderr() -> Iterator[None]:
    """A block in which all that goes to stderr is plain text."""
    with contextlib.redirect_stderr(Printable(sys.stderr)):
        yield
