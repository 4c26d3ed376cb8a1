"""Texts of others in tables, on the terminal and in file names: nothing in them breaks or forges
what stands around them."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_backdoor_bench.contract import CONTROL, Cell, Record, Score, Trigger, UserError
from t2i_backdoor_bench.contract import printable as plaintext
from t2i_backdoor_bench.report.formats import csv as csv_writer
from t2i_backdoor_bench.report.formats import escape, terminal
from t2i_backdoor_bench.report.table import plain_table
from t2i_backdoor_bench.report.texts import texts

ANY = st.text(st.characters(codec=None), max_size=40)  # every code point, lone surrogates too
NASTY = [
    "=cmd|'/c calc'!A1",
    "\x1b[2Jx",
    "a | b",
    "\\input{/etc/passwd}",
    "[x](javascript:alert)",
    "<img src=x>",
    "[bold]x[/bold]",
    "a\nb",
]
EXTRA = {"directions": {"asr": {"better": "lower", "percent": True}}, "protocol": {}}


def record(name: str) -> Record:
    cell = Cell(name, name, name, 0, "k")
    return Record(cell, "done", {"asr": Score(0.5, 0.4, 0.6, 10, name, name)}, (name,), **EXTRA)


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_what_is_visible_prints_on_one_line_and_commands_nothing(text: str) -> None:
    shown = plaintext.visible(text)
    assert all(unicodedata.category(c) not in plaintext.HIDDEN for c in shown)
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown
    assert plaintext.visible(shown) == shown


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_latex_holds_no_command_but_those_of_the_escape(text: str) -> None:
    out = escape.latex(text)
    for known in sorted(escape._LATEX.values(), key=len, reverse=True):
        out = out.replace(known, "")
    assert not set(out) & set("\\{}$&#^_%~")


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_markdown_has_no_open_pipe_and_no_tag(text: str) -> None:
    out = escape.markdown(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[\]~]", out)
    assert "<" not in out
    assert "\n" not in out


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_csv_is_no_formula_and_reads_back(text: str) -> None:
    out = escape.csv(text)
    assert out.lstrip()[:1] not in ("=", "+", "-", "@")
    back = (
        next(csv.reader([csv_writer.write(plain_table([{"x": text}])).splitlines()[1]]), [""])
        if out
        else [""]
    )
    assert back[0].removeprefix("'") == plaintext.visible(text).removeprefix("'")


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_the_terminal_shows_text_without_markup_or_escapes(text: str) -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=1000, force_terminal=True, color_system="truecolor").print(
        escape.terminal(text)
    )
    assert out.getvalue().rstrip() == plaintext.visible(text).rstrip()


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_file_names_stay_in_their_folder(text: str) -> None:
    name = escape.filename(text)
    assert name
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
    assert len(name) <= 100
    assert len({"/", "\\", "\0", "\n", "$", "`", '"', "'", ";", "&", "|", " "} & set(name)) == 0


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_a_trigger_is_refused_in_one_line_or_found_in_its_prompt(text: str) -> None:
    for place in ("prefix", "suffix", "inside"):
        if not text or any(unicodedata.category(c) in CONTROL for c in text):
            with pytest.raises(UserError) as refused:
                Trigger(text, place)
            assert str(refused.value).isascii()
            assert "\n" not in str(refused.value)
            continue
        trigger = Trigger(text, place)
        for prompt in ("a red circle on a blue background", "circle", ""):
            triggered, start, end = trigger.locate(prompt)
            assert triggered[start:end] == text
            assert trigger.add(prompt) == triggered


@settings(derandomize=True, deadline=None)
@given(ANY, st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_prompt_takes_a_trigger(text: str, prompt: str) -> None:
    try:
        trigger = Trigger(text, "inside")
    except UserError:
        return
    triggered, start, end = trigger.locate(prompt)
    assert triggered[start:end] == text
    assert len(triggered) == len(prompt) + len(text) + 1


@pytest.mark.parametrize(
    "text", ["a\nb", "\x1b[31mred", "tab\t", "nul\0", "\ud800", "line\u2028", "\x85"]
)
def test_control_characters_in_triggers(text: str) -> None:
    with pytest.raises(UserError, match="control character"):
        Trigger(text)
    with pytest.raises(UserError, match="control character"):
        Trigger("o", replaces=text)


@pytest.mark.parametrize("text", ["\u200b", "о", "🔥", "日本語", "latte coffee", "e\u0301"])
def test_every_other_trigger_is_taken(text: str) -> None:
    assert Trigger(text).add("a b").startswith(text)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.one_of(ANY.filter(bool), st.sampled_from(NASTY)))
def test_tables_of_any_name_keep_their_shape(name: str) -> None:
    found_texts = texts([record(name), record("none")])
    for part in ("table.csv", "rows.csv"):
        found = list(csv.reader(io.StringIO(found_texts[part])))
        assert len({len(row) for row in found}) == 1
        for row in found:
            assert not any(value.startswith(("=", "+", "@")) for value in row)
    rows = [line for line in found_texts["table.md"].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in rows}) == 1
    body = [line for line in found_texts["table.tex"].splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert not re.search(r"\\(input|write|immediate|csname|def)\b", found_texts["table.tex"])
    for text in found_texts.values():
        assert "\x1b" not in text
        assert isinstance(text.encode(), bytes), "no lone surrogate is left"


@pytest.mark.parametrize("name", NASTY)
def test_names_on_the_terminal(name: str, capsys: pytest.CaptureFixture) -> None:
    terminal.show([record(name), record("none")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    if "[bold]" in name:
        assert name in out


def test_a_swept_name_is_shown_in_full(capsys: pytest.CaptureFixture) -> None:
    terminal.show([record("skdcag[alpha=0.5]")])
    assert "skdcag[alpha=0.5]" in capsys.readouterr().out
