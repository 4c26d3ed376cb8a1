"""Tables as LaTeX, CSV and Markdown: bold, arrows, needs, dashes, escapes."""

import csv
import dataclasses
import io
import shutil
import subprocess

import pytest
from report_records import (  # noqa: F401 - a fixture
    DIRECTIONS,
    EXTRA,
    PROTOCOL,
    find,
    record,
    records,
    share,
    to_csv,
    to_latex,
    to_markdown,
    with_targets,
)

from t2i_backdoor_bench.report import paper_table as paper
from t2i_backdoor_bench.report.figures import intervals, plots
from t2i_backdoor_bench.report.formats import csv as csv_writer
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.main_table import best, caption
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.numbers import shown
from t2i_backdoor_bench.report.rows import long_rows
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.store.folder import Store


def test_best_is_bold_among_defenses_only(records):
    text = to_latex(records)
    lines = {
        tuple(c.strip() for c in line.split("&")[:2]): line
        for line in text.splitlines()
        if " & " in line
    }
    assert "textbf" not in lines[r"bad\_pixel", "none"] + lines[r"bad\_style", "none"]
    table = rows_of(records)
    index = {(r["attack"], r["defense"]): i for i, r in enumerate(table)}
    assert best(table, reading(records, "asr")) == {
        index["bad_pixel", "skdcag"]
    }  # a rival alone (bad_style) gets no bold
    assert best(table, reading(records, "fid")) == {
        index["bad_pixel", "weak_one"]
    }  # though none has 1.1
    assert best(table, reading(records, "seconds")) == set()


def test_latex_has_arrows_needs_dashes_and_escapes(records):
    text = to_latex(records)
    head = next(line for line in text.splitlines() if line.startswith("Attack"))
    assert r"ASR\,\%\,$\downarrow$" in head
    assert r"RA\,\%\,$\uparrow$" in head
    assert r"FID (net, n 10)\,$\downarrow$" in head
    failed = [line for line in text.splitlines() if r"weak\_one" in line][-1]
    assert failed.count("--") == head.count("&") - 2
    assert "trigger, clean pairs" in text
    assert r"\textbf{0.0}" in text
    assert text.count(r"\midrule") == 2
    assert text.count("{") == text.count("}")
    assert "10 prompts a condition" in text
    assert "15 steps" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in rows}) == 1


def test_escape():
    assert (
        escape.latex("a_b & 50% {x} #1 ~ ^ \\")
        == r"a\_b \& 50\% \{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_latex_compiles(records, tmp_path):
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("no LaTeX here")
    head = "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    document = (
        head
        + to_latex(records)
        + paper.texts(with_targets(records))["table_paper.tex"]
        + "\\end{document}\n"
    )
    (tmp_path / "t.tex").write_text(document)
    flags = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    assert (
        subprocess.run(
            [engine, *flags, "t.tex"], cwd=tmp_path, capture_output=True, check=False
        ).returncode
        == 0
    )
    if "pdflatex" in engine:
        assert "Overfull" not in (tmp_path / "t.log").read_text()


def test_csv_is_stable_and_has_the_promised_columns(records):
    text = to_csv(rows_of(records))
    assert text == to_csv(rows_of(records))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {
        "base",
        "attack",
        "defense",
        "needs",
        "seeds",
        "n",
        "asr",
        "asr_lo",
        "asr_hi",
        "fid",
        "seconds",
        "peak_memory_mb",
        "status",
    } <= set(rows[0])
    assert rows[1]["removal_accuracy"] == "1"
    assert rows[-1]["asr"] == ""
    long = list(csv.DictReader(io.StringIO(to_csv(long_rows(records)))))
    assert len(long) == len(records) * len(DIRECTIONS)
    assert {r["note"] for r in long if r["status"] == "failed"} == {"the cell failed"}
    assert {r["network"] for r in long if r["status"] == "done"} == {"net"}


def test_numbers():
    assert [csv_writer.number(v) for v in (None, 0.1234567, 2.0, 1055040.0, 3, "x")] == [
        "",
        "0.123457",
        "2",
        "1055040",
        "3",
        "x",
    ]
    assert [shown(v, False) for v in (None, 0.9, 12.345, 123.4, 0.00001, -1.5)] == [
        "–",
        "0.900",
        "12.3",
        "123",
        "0.0000",
        "-1.50",
    ]
    assert shown(0.98765, True) == "98.8"


def test_markdown(records):
    text = to_markdown(records)
    assert "| bad_pixel | skdcag | trigger | **0.0** [0.0," in text


def test_attacks_alone_are_compared_by_stealth_and_cost(records):
    alone = [
        dataclasses.replace(
            r, cost={"seconds_attack": 61.25, "parameters_attack": 4_300_123, "images_attack": 512}
        )
        for r in records
        if r.cell.defense == "none"
    ]
    text = to_markdown(alone)
    head, _, *rows = text.split("\n\n")[0].splitlines()
    assert [h.strip() for h in head.split("|")[1:-1]] == [
        "Attack",
        "ASR %",
        "CLIP ↑",
        "Parameters",
        "Images",
        "Seconds ↓",
    ]
    assert [c.strip() for c in rows[0].split("|")[1:-1]] == [
        "bad_pixel", "100.0 [11.0, 100.0]", "20.1", "4,300,123", "512", "61.2"
    ]  # fmt: skip
    assert "Best defense" not in text
    assert "RA %" in to_markdown(records)
    assert "RA %" in to_markdown([r for r in alone if r.cell.attack == "bad_pixel"]), (
        "one attack alone is compared with nothing"
    )


def test_the_papers_table(records):
    """Removal accuracy by kind of target; a mean over attacks only where all of them are there."""
    records = with_targets(records)
    found = dict(paper.removal(records))
    assert list(found["skdcag"]) == ["patch", "style"]
    assert found["skdcag"]["patch"].value == 1
    assert found["weak_one"]["style"] is None, "both seeds failed"
    more = [
        dataclasses.replace(r, cell=dataclasses.replace(r.cell, attack="other_pixel"))
        for r in records
        if r.cell.attack == "bad_pixel"
    ]
    both = dict(paper.removal([*records, *more]))
    assert both["weak_one"]["patch"] == pytest.approx(found["weak_one"]["patch"]), (
        "a copy of an attack shares all that varies from seed to seed"
    )
    text = paper.texts(records)["table_paper.tex"]
    assert r"Method & Pixel & Style \\" in text
    assert r"\textbf{100.0}" in text
    assert "weak\\_one" in text
    assert text.count("{") == text.count("}")
    assert "| none | 0.0 [" in paper.texts(records)["table_paper.md"]


def test_the_caption_names_the_attacks_on_the_text_encoder(records):
    assert "In the text encoder" not in caption(records)
    edits = {"a": "U-Net", "b": "LoRA on U-Net and text encoder attention"}
    names = list(dict.fromkeys(r.cell.attack for r in records))
    told = [
        dataclasses.replace(r, edits=edits["b" if r.cell.attack == names[-1] else "a"])
        for r in records
    ]
    assert f"In the text encoder: {names[-1]}; what repairs the U-Net changes none" in caption(told)
    undefended = [r for r in told if r.cell.defense == "none"]
    assert "In the text encoder" not in caption(undefended)


def test_attacks_that_nothing_defends_against_have_a_table_and_a_figure_of_their_own(
    records, tmp_path
):
    undefended = [r for r in records if r.cell.defense == "none"]
    assert to_markdown(undefended).startswith("| Attack | ASR % |")
    assert r"\begin{tabular}{lrr" in (text := to_latex(undefended))
    assert "none" not in text
    assert {p.stem for p in plots.write_figures(Store(tmp_path), undefended)} == {"attacks"}
    figure = intervals.attacks([r for r in undefended if r.cell.seed == 0])
    drawn = [[float(x) for x in bars.lines[0].get_xdata()] for bars in figure.axes[0].containers]
    assert drawn == [[100.0, 90.0], []], "on captions, and nothing at a protocol of their own"
    assert intervals.attacks(records) is None
    assert to_markdown(records).startswith("| Attack | Defense | Needs | ")
