"""Texts of others in every output: none becomes markup, a link, code, a formula, or a command to
the terminal."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from report_pages import read
from stranger import change, no_figures, stranger, tables_of  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract.printable import HIDDEN, Printable, lines, visible
from t2i_backdoor_bench.report.formats import escape

TEXTS = {
    "tag": "<img src=x onerror=alert(1)>",
    "script": "</script><script>alert(1)</script>",
    "comment": "<!--<script>--> ]]> --!>",
    "attribute": "\" onmouseover=alert(1) x='",
    "link": "[click](javascript:alert(1))",
    "address": "<javascript:alert(1)>",
    "bare": "javascript:alert(1)",
    "reference": "[x]: javascript:alert(1)",
    "picture": "![x](https://evil.example/pixel.png)",
    "escape": "\x1b]8;;file:///etc/passwd\x07here\x1b[2J",
    "c1": "\x9b2J\x85",
    "bidi": "\u202egnp.exe\u2066\u2069",
    "template": "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "rich": "[link=file:///etc/passwd]x[/link][bold]",
    "latex": "\\input{/etc/passwd}\\href{javascript:x}{y}$\\write18{id}$",
    "formula": '=HYPERLINK("javascript:alert(1)")',
    "row": "a|b\n| c | d |\n\n# heading",
    "entity": "&#106;avascript&colon;alert(1) &lt;b&gt;",
    "setext": "x\n===\n---",
}


def infect(value: object, text: str) -> object:
    """Every text of a record that may be any text, replaced."""
    keep = ("key", "status", "better", "kind", "figure", "group", "only", "network", "base")
    if isinstance(value, dict):
        return {k: v if k in keep else infect(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [infect(v, text) for v in value]
    return text if isinstance(value, str) else value


@pytest.fixture(params=list(TEXTS))
def infected(request, stranger, no_figures) -> tuple[Path, str, tuple[int, str, str]]:
    """A folder whose records hold one hostile text wherever they hold a text, and what the command
    said of it."""
    text = TEXTS[request.param]
    for path in (stranger / "cells").glob("*.json"):
        for part in ("backdoor", "error", "extra", "needs", "judge"):
            change(path, lambda p, part=part: p | {part: infect(p[part], text)})

        def rename(payload: dict) -> None:
            cell = payload["cell"]
            cell["attack"] = text + "2" * (cell["attack"] == "bad_pixel")
            cell["base"] = text
            cell["defense"] = cell["defense"] if cell["defense"] == "none" else text
            cell["config"] = infect(cell["config"], text)
            for score in payload["scores"].values():
                score |= {"network": text, "note": text}

        change(path, rename)
    for path in (stranger / "prompts").glob("*.json"):
        change(path, lambda p: infect(p, text))
    (stranger / "run.yaml").write_text(text)

    def rename_plan(payload: dict) -> dict:
        cells = payload["cells"]
        for cell in cells:
            cell["attack"] = text + "2" * (cell["attack"] == "bad_pixel")
            cell["defense"] = cell["defense"] if cell["defense"] == "none" else text
        needs = {"none": [], text: [text]}
        judges = {text: next(iter(payload["judges"].values()))}
        return infect(payload, text) | {"cells": cells, "needs": needs, "judges": judges}

    change(stranger / "run.json", rename_plan)
    found = tables_of(stranger)
    assert found[0] == 0, found[2]
    return stranger, text, found


def test_one_text_everywhere_in_every_output(infected) -> None:
    folder, text, (_, out, err) = infected
    assert "damaged" not in err
    _page(folder / "report.html")
    for name in ("table.md", "leaderboard.md", "matrix.md"):
        _markdown(folder / name)
    for name in ("table.csv", "rows.csv"):
        _csv(folder / name)
    _latex(folder / "table.tex")
    for shown in (out, err):
        _plain(shown)
    if text == TEXTS["template"]:
        assert "{{ 7 * 7 }}{% include" in (folder / "report.html").read_text(), "not rendered"


def _plain(text: str) -> None:
    """Nothing turns the writing direction, moves the cursor or is not seen."""
    assert all(c == "\n" or unicodedata.category(c) not in HIDDEN for c in text)


def _page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    page = read(text)
    assert len(page.scripts) == 2
    code = page.scripts[1][1]
    policy = next(v for _, k, v in page.attributes if k == "content" and v and "script-src" in v)
    hashed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'" in policy
    assert "unsafe" not in policy
    assert json.loads(page.scripts[0][1])["cells"]
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style"
        if name in ("src", "href", "xlink:href", "action", "formaction", "srcdoc", "ping"):
            assert re.fullmatch(r"#[\w-]+|data:image/(png|webp);base64,[\w+/=]+", value), value
    assert not set(page.tags) & {"iframe", "object", "embed", "base", "form", "a:script", "link"}
    for found in [*page.text, *(v or "" for _, k, v in page.attributes if k != "src")]:
        _plain(found)


def _markdown(path: Path) -> None:
    """As CommonMark with tables and raw HTML reads it."""
    text = path.read_text(encoding="utf-8")
    _plain(text)
    assert not re.search(r"(javascript|vbscript|data|file)\s*:\S", text, re.IGNORECASE)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    for token in [*tokens, *(t for outer in tokens for t in outer.children or [])]:
        assert token.type not in ("html_block", "html_inline", "link_open", "image"), token
    heads = [t for t in tokens if t.type == "heading_open"]
    assert all(t.tag in ("h1", "h2") for t in heads)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in _tables(text)[0]}) == 1


def _tables(text: str) -> list[list[str]]:
    found, now = [], []
    for line in text.splitlines():
        if line.startswith("|"):
            now.append(line)
        elif now:
            found, now = [*found, now], []
    return [*found, now] if now else found


def _csv(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    _plain(text)
    table = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in table}) == 1
    for cell in (c for row in table for c in row):
        number = re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell)
        assert number or not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "javascript:"))


def _latex(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    _plain(text)
    assert not re.search(r"\\(input|include|write|immediate|href|url|csname|def|catcode)\b", text)
    assert not re.search(r"(?<!\\)\$\\write", text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_one_cell_of_each_format(text: str) -> None:
    read_as = MarkdownIt("commonmark", {"html": True}).renderInline(escape.markdown(text))
    assert "<" not in read_as
    assert html.unescape(read_as) == visible(text), "a reader sees the text itself"
    assert not escape.csv(text).lstrip().startswith(("=", "javascript:"))


def test_stderr_is_text_whoever_writes_it(capsys) -> None:
    """Warnings of libraries, too; a progress bar still moves."""
    evil = "\x1b]0;title\x07\u202ex\rerror: fake"
    stream = io.StringIO()
    out = Printable(stream)
    for written in (evil, "\r 50 % |###  |", "\n", "\x1b[A", f"\r{evil}\r", "two\nlines\n"):
        out.write(written)
    assert stream.getvalue() == (
        f"{lines(evil)}\r 50 % |###  |\n\x1b[A\r{lines(evil)}\rtwo\nlines\n"
    )
    from t2i_backdoor_bench.contract.printable import printable_stderr

    with printable_stderr(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"the file {evil} is odd", stacklevel=1)
        print(evil, file=sys.stderr)
    _plain(capsys.readouterr().err)
