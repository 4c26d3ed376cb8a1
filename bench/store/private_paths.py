"""Paths of somebody's machine in texts: they name users and projects, and nobody else has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# an address is left alone; a path has at least two parts, or starts with a drive or the home folder
_FOUND = re.compile(
    r"https?://\S+"
    r"|(?<![\w./~-])(?P<path>~?(?:/[^\s/:\"'<>|,;()\[\]{}]+){2,}/?|~/[^\s:\"'<>|,;()]+"
    r"|[A-Za-z]:\\[^\s:\"'<>|,;()]+)"
)


def stripped(text: str) -> str:
    """The text with the last part alone of each absolute path."""

    def short(match: re.Match[str]) -> str:
        path = match["path"]
        return match[0] if path is None else re.split(r"[/\\]", path.rstrip("/\\"))[-1]

    return _FOUND.sub(short, text)


def paths_in(value: Any, where: str = "") -> Iterator[str]:
    """Where a JSON value holds an absolute path, with the path: "data: /home/me/pictures"."""
    if isinstance(value, str):
        found = (match["path"] for match in _FOUND.finditer(value))
        yield from (f"{where}: {path}" for path in found if path is not None)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from paths_in(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner, where)
