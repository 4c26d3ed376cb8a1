"""LaTeX tables of more than 30 rows go on over several pages, within the width of the text."""

import re
import shutil
import subprocess

import pytest

from t2i_backdoor_bench.report.formats import latex, long_table
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table

NAMES = ("none", "skdcag", "t2ishield_ftt+t2ishield_locate+uce_phrase", "frequency_locate+uce")
NUMBERS = tuple(Column(t, "%", "lower") for t in ("ASR", "RA", "Restored", "FTR", "Decoys"))


def table(rows: int, numbers: tuple[Column, ...] = NUMBERS) -> Table:
    heads = (*(Column(t, numeric=False) for t in ("Attack", "Defense", "Needs")), *numbers)
    lines = []
    for i in range(rows):
        attack = f"badt2i_object{i // 8}"
        texts = (attack, NAMES[i % 4], "trigger, clean model, clean prompts")
        cells = [Cell(text) for text in texts] + [Cell("100.0", 1.0, bold=i % 4 == 1)] * len(
            numbers
        )
        lines.append(Row(tuple(cells), (attack,)))
    return Table(heads, tuple(lines), caption="50 % of a_b", notes=("a note & more",))


def rows_of(text: str) -> list[str]:
    """The rows of the table and the heads, without the caption and what spans all columns."""
    found = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [line for line in found if not line.startswith((r"\caption", r"\multicolumn"))]


def environments(text: str) -> None:
    """Every environment ends in the order in which it began."""
    opened = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("rows", [30, 31])
def test_only_a_table_of_more_than_thirty_rows_is_a_longtable(rows):
    text = latex.write(table(rows), "tab:x")
    assert (r"\begin{longtable}" in text) == (rows > 30)
    assert (r"\begin{table*}" in text) == (r"\resizebox" in text) == (rows <= 30)
    environments(text)


def test_every_row_is_there_with_all_columns_and_the_head_stands_on_every_page():
    text = latex.write(table(70), "tab:x")
    lines = rows_of(text)
    assert len(lines) == 2 + 70
    assert lines[0] == lines[1] != lines[2]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {7}
    first, later = text.index(r"\endfirsthead"), text.index(r"\endhead")
    assert text.index(lines[0]) < first < text.rindex(lines[0]) < later < text.index(lines[2])
    assert text.count(r"\caption{50 \% of a\_b}\label{tab:x} \\") == 1 == text.count(r"\label{")
    assert text.count(r"\toprule") == 2 == text.count(r"\bottomrule")
    assert text.count(r"\midrule") == 2 + 8, "below the heads, and between nine groups"
    assert all(line.startswith(rf"badt2i\_{chr(92)}allowbreak{{}}object{i // 8} &")
               or line.startswith(rf"badt2i\_object{i // 8} &")
               for i, line in enumerate(lines[2:])), "a page may begin with any row"  # fmt: skip
    assert r"\par a note \& more" in text


def test_names_are_broken_where_the_page_is_too_narrow_for_them():
    columns = re.search(r"\\begin\{longtable\}\{(.*)\}", latex.write(table(40), "tab:x"))[1]
    widths = [float(w) for w in re.findall(r"p\{(\d+)pt\}", columns)]
    numbers = columns.count("r", columns.rindex("}"))
    assert (len(widths), numbers) == (3, 5)
    size = "footnotesize"
    heads = sum(len(c.title) + 4 for c in NUMBERS) * long_table.SIZES[size]
    assert sum(widths) + heads + 2 * long_table.GAP * 8 <= long_table.TURNED + 2
    assert rf"\{size}" in latex.write(table(40), "tab:x")
    assert long_table.breakable(r"a\_b+c") == r"a\_\allowbreak{}b+\allowbreak{}c"


def test_more_columns_make_the_type_smaller_and_few_leave_pages_upright():
    many = latex.write(table(40, NUMBERS * 2), "tab:x")
    assert r"\begin{landscape}" in many
    assert r"\footnotesize" not in many
    heads = (Column("Method", numeric=False), Column("ASR", "%", "lower"))
    few = Table(heads, tuple(Row((Cell(f"m_{i}"), Cell("1.0"))) for i in range(31)))
    text = latex.write(few, "tab:x")
    assert "landscape" not in text
    assert r"\begin{longtable}{lr}" in text
    environments(text)


@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_it_compiles_and_no_line_is_wider_than_the_page(tmp_path, columns):
    engine = shutil.which("pdflatex")
    if engine is None:
        pytest.skip("no LaTeX here")
    packages = r"\usepackage{array,booktabs,longtable,pdflscape}"
    text = latex.write(table(120, (*NUMBERS, *NUMBERS[:4])), "tab:x")
    document = rf"\documentclass[{columns}]{{article}}{packages}\begin{{document}}Before." + (
        f"\n\n{text}\nAfter.\n\\end{{document}}\n"
    )
    (tmp_path / "t.tex").write_text(document)
    flags = ["-interaction=nonstopmode", "-halt-on-error"]
    for _ in range(2):  # a longtable takes its widths from the time before
        done = subprocess.run([engine, *flags, "t.tex"], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert int(re.search(r"Output written on t\.pdf \((\d+) pages", log)[1]) > 4
