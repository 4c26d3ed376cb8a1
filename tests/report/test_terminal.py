"""What a run prints: 100 columns, no colours on a pipe, the numbers whole, the summary."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from report_records import record
from test_standings import records  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.formats import method_list, terminal

LONG = [
    record("an_attack_with_a_long_name[steps=100,lr=0.0001]", "none", 0, 10, 0, 1.0),
    record(
        "an_attack_with_a_long_name[steps=100,lr=0.0001]",
        "skdcag[alpha=0.5,bias=2]+tpd_homoglyphs",
        0,
        0,
        9,
        123.4,
        ("trigger", "clean_model", "clean_pairs"),
    ),
    record("[red]hostile[/red]", "[/]", 0, 0, 9, 1.0),
]


def shown(records) -> str:
    out = io.StringIO()
    terminal.show(records, out)
    return out.getvalue()


@pytest.mark.parametrize("which", ["handmade", "long"])
def test_the_table_fits_100_columns_and_keeps_its_numbers(records, which: str):
    text = shown(records if which == "handmade" else LONG)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert "100.0" in text
    if which == "long":
        assert "123" in text
        assert "[red]hostile[/r" in text, "names are text, not markup"


def test_a_row_of_methods_with_usual_names_is_one_line():
    needs = ("trigger", "clean_prompts")
    row = record("badt2i_object", "concept_ablation", 0, 0, 9, 1.0, needs)
    row.knowledge["clean_prompts"] = 100
    text = shown([record("badt2i_object", "none", 0, 10, 0, 1.0), row])
    (line,) = (line for line in text.splitlines() if "concept_ablation" in line)
    assert "trigger, prompts" in line


def test_colours_only_on_a_terminal(records, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal()
    terminal.show(records, out)
    assert "\x1b[" in out.getvalue()
    assert "\x1b" not in shown(records)


def test_the_summary_says_what_was_learned_what_failed_and_where(records, tmp_path: Path):
    out = io.StringIO()
    terminal.summary(
        records,
        tmp_path,
        [tmp_path / "table.csv", tmp_path / "plots" / "a.png", tmp_path / "report.html"],
        out,
    )
    text = " ".join(out.getvalue().split())
    assert "good restores 80.0 %" in text
    assert "90.0 % in the mean" in text
    assert "no result two x broken, seed 0" in text
    assert "11 of 12 cells done" in text
    assert "table.csv, plots/, report.html" in text
    assert out.getvalue().rstrip().endswith(str(tmp_path / "report.html"))


def test_many_failures_are_counted_not_listed(tmp_path: Path):
    many = [record("a", f"d{i}", 0, 0, 0, 1.0, status="failed") for i in range(9)]
    out = io.StringIO()
    terminal.summary(many, tmp_path, [], out)
    assert out.getvalue().count("no result") == terminal.MOST_FAILURES
    assert "and 4 more cells without a result" in out.getvalue()


def test_list_shows_every_method_with_its_paper():
    out = io.StringIO()
    method_list.show(["shapes"], {"a_suite": "What is asked?"}, out)
    text = out.getvalue()
    line = next(row for row in text.splitlines() if " badt2i_pixel " in row)
    for word in ("pixel", "U-Net", "Zhai et al. 2023", "BadT2I"):
        assert word in line
    line = next(row for row in text.splitlines() if " finetune_reversal " in row)
    assert "clean_model" in line
    assert "Aravindan et al. 2025" in line
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= method_list.WIDTH
