"""Text of others (names, option values, prompts, captions) in each output format.

A text stays plain text: it cannot break a table or add markup, formulas or commands to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from t2i_backdoor_bench.contract.printable import visible

if TYPE_CHECKING:
    from rich.text import Text

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


# addresses that run code or open files where a reader makes links of what looks like one
SCHEME = re.compile(r"\b(javascript|vbscript|data|file)(\s*):(?=\S)", re.IGNORECASE)


def latex(text: str) -> str:
    """Plain text for LaTeX: it holds no command, and braces are balanced."""
    return "".join(_LATEX.get(c, c) for c in visible(text))


def markdown(text: str) -> str:
    """Plain text for one cell of a Markdown table: no column, markup, link or HTML. Underscores
    inside words stay: they mean nothing."""
    text = re.sub(
        r"([\\`*|\[\]~!#])",
        r"\\\1",
        visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
    )
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return SCHEME.sub(r"\1\2&#58;", text)


def csv(text: str) -> str:
    """A text for a cell of a CSV file: a spreadsheet takes it for no formula (OWASP, CSV
    injection) and no address of code."""
    text = visible(text)
    begin = text.lstrip()
    formula = begin[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") and bool(begin)
    return f"'{text}" if formula or SCHEME.match(begin) else text


def terminal(text: str) -> Text:
    """Plain text for rich: no markup, no emoji code."""
    from rich.text import Text

    return Text(visible(text))


def plot(text: str) -> str:
    """Plain text for matplotlib: no formula."""
    return visible(text).replace("$", r"\$")


def filename(text: str) -> str:
    """A part of a file's name: letters, digits and signs that no file system and no shell reads
    otherwise; at most 100 characters."""
    return re.sub(r"[^\w=,+.\[\]-]", "_", visible(text)).lstrip(".-")[:100] or "_"
