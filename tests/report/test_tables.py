"""Tables from handmade records: pooling, bold, arrows, needs, dashes, tests, escapes."""

import csv
import dataclasses
import io
import itertools
import shutil
import subprocess

import matplotlib
import pytest

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.report import paper_table as paper
from t2i_backdoor_bench.report.figures import intervals, plots
from t2i_backdoor_bench.report.figures.losses import losses as draw_losses
from t2i_backdoor_bench.report.figures.style import STYLE, new_figure
from t2i_backdoor_bench.report.figures.tradeoff import tradeoff, write_numbers
from t2i_backdoor_bench.report.formats import csv as csv_writer
from t2i_backdoor_bench.report.formats import escape, latex, markdown
from t2i_backdoor_bench.report.main_table import best, caption, main_table
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.numbers import shown
from t2i_backdoor_bench.report.pooling import pool
from t2i_backdoor_bench.report.rows import long_rows
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.report.table import plain_table
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.store.folder import Store

DIRECTIONS = {
    "asr": {"better": "lower", "percent": True},
    "removal_accuracy": {"better": "higher", "percent": True},
    "restoration_accuracy": {"better": "higher", "percent": True},
    "fid": {"better": "lower", "percent": False},
    "clip_score": {"better": "higher", "percent": False},
}
PROTOCOL = {
    "base": "shapes",
    "evaluation": {"n": 10, "real": 100},
    "sampler": {"name": "DPM-Solver++", "steps": 15, "guidance": 4.0},
    "prompts": "shapes evaluation split",
    "scorer": "tiny",
    "training": 1.0,
}
EXTRA = {"directions": DIRECTIONS, "protocol": PROTOCOL}


def share(k, n=10):
    flags = [i < k for i in range(n)]
    return Score(k / n, *stats.wilson(k, n), n, "net", "", flags)


def record(attack, defense, seed, asr, restored, fid, needs=(), status="done"):
    scores = {
        "asr": share(asr),
        "removal_accuracy": share(10 - asr),
        "restoration_accuracy": share(restored),
        "fid": Score(fid, n=10, network="net"),
        "clip_score": Score(20.0 + asr, n=10, network="net", each=[20.0 + asr] * 10),
    }
    cost = {"seconds": 2.0 + seed, "steps": 4, "seconds_attack": 9.0}
    cell = Cell("shapes", attack, defense, seed, f"{attack}-{defense}-{seed}")
    return Record(
        cell,
        status,
        scores if status == "done" else {},
        needs,
        cost=cost if status == "done" else {},
        **EXTRA,
    )


def to_latex(records):
    return latex.write(main_table(records), "tab:main")


def to_markdown(records):
    return markdown.write(main_table(records))


def to_csv(rows):
    return csv_writer.write(plain_table(rows))


@pytest.fixture
def records():
    return [
        record("bad_pixel", "none", 0, 10, 0, 1.0),
        record("bad_pixel", "none", 1, 10, 0, 1.2),
        record("bad_pixel", "skdcag", 0, 0, 9, 1.1, ("trigger",)),
        record("bad_pixel", "skdcag", 1, 0, 10, 1.3, ("trigger",)),
        record("bad_pixel", "weak_one", 0, 6, 4, 1.05, ("trigger", "clean_pairs")),
        record("bad_pixel", "weak_one", 1, 4, 4, 1.05, ("trigger", "clean_pairs")),
        record("bad_style", "none", 0, 9, 1, 1.0),
        record("bad_style", "none", 1, 9, 1, 1.0),
        record("bad_style", "skdcag", 0, 2, 5, 1.0, ("trigger",)),
        record("bad_style", "skdcag", 1, 2, 5, 1.0, ("trigger",), status="failed"),
        record("bad_style", "weak_one", 0, 5, 5, 1.0, ("trigger", "clean_pairs"), status="failed"),
        record("bad_style", "weak_one", 1, 5, 5, 1.0, ("trigger", "clean_pairs"), status="failed"),
    ]


def with_targets(records):
    """The records with the targets of their attacks."""
    kinds = {"bad_pixel": "patch", "bad_style": "style"}
    return [
        dataclasses.replace(r, backdoor={"target": {"kind": kinds[r.cell.attack]}}) for r in records
    ]


def find(table, attack, defense):
    return next(r for r in table if (r["attack"], r["defense"]) == (attack, defense))


def test_seeds_are_pooled(records):
    table = rows_of(records)
    assert [(r["attack"], r["defense"]) for r in table[:3]] == [
        ("bad_pixel", d) for d in ("none", "skdcag", "weak_one")
    ]
    weak = find(table, "bad_pixel", "weak_one")
    expected = stats.pool_proportion([share(6).each, share(4).each])
    assert (weak["asr"], weak["asr_lo"], weak["asr_hi"]) == tuple(expected)
    skdcag = find(table, "bad_pixel", "skdcag")
    assert skdcag["fid"] == pytest.approx(1.2)
    assert skdcag["fid_lo"] < 1.2 < skdcag["fid_hi"]
    assert skdcag["seeds"] == 2
    assert skdcag["needs"] == "trigger"
    assert skdcag["n"] == 10
    assert skdcag["seconds"] == 2.5
    assert skdcag["seconds_per_step"] == pytest.approx(0.625)
    assert find(table, "bad_pixel", "none")["needs"] == ""


def test_the_change_of_fid_is_that_of_each_seed(records):
    table = rows_of(records)
    skdcag = find(table, "bad_pixel", "skdcag")
    mean, half = (
        (0.1 + 1 / 12) / 2,
        12.7062 * (0.1 - 1 / 12) / 2,
    )  # Student's t of two seeds, one degree of freedom
    assert skdcag["fid_change"] == pytest.approx(mean)
    assert [skdcag["fid_change_lo"], skdcag["fid_change_hi"]] == pytest.approx(
        [mean - half, mean + half], rel=1e-4
    )
    one = find(table, "bad_style", "skdcag")
    assert (one["fid_change"], one["fid_change_lo"]) == (0.0, None), "one seed has no interval"
    assert find(table, "bad_pixel", "none")["fid_change"] is None
    assert find(table, "bad_style", "weak_one")["fid_change"] is None


def test_failed_and_partial_rows(records):
    table = rows_of(records)
    partial, failed = find(table, "bad_style", "skdcag"), find(table, "bad_style", "weak_one")
    assert partial["status"] == "partial"
    assert partial["seeds"] == 1
    assert partial["asr"] == 0.2
    assert failed["status"] == "failed"
    assert failed["seeds"] == 0
    assert failed["asr"] is None
    assert failed["seconds"] is None
    assert failed["p_removal_vs_skdcag"] is None
    assert list(failed) == list(partial)


def test_paired_tests_against_skdcag(records):
    table = rows_of(records)
    row = find(table, "bad_pixel", "weak_one")
    weak, strong = share(4).each + share(6).each, share(10).each * 2
    assert row["p_removal_vs_skdcag"] == pytest.approx(stats.mcnemar(weak, strong))
    assert find(table, "bad_pixel", "skdcag")["p_removal_vs_skdcag"] is None
    assert find(table, "bad_pixel", "none")["p_restoration_vs_skdcag"] < 1e-4


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
    assert r"FID\,$\downarrow$" in head
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


def test_a_metric_without_value_keeps_its_reason(records):
    result = records[0]
    result.scores["fid"] = Score(None, n=24, network="net", note="FID needs 64 images")
    long = long_rows(records)
    row = next(
        r for r in long if r["metric"] == "fid" and r["defense"] == "none" and r["seed"] == 0
    )
    assert row["value"] is None
    assert row["note"] == "FID needs 64 images"
    pooled = pool([result.scores["fid"], records[1].scores["fid"]])
    assert pooled.value == 1.2
    assert "1 of 2 seeds" in pooled.note


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
        "FID ↓",
        "CLIP ↑",
        "Parameters",
        "Images",
        "Seconds ↓",
    ]
    assert [c.strip() for c in rows[0].split("|")[1:-1]] == [
        "bad_pixel", "100.0 [83.9, 100.0]", "1.10", "30.0", "4,300,123", "512", "61.2"
    ]  # fmt: skip
    assert "Best defense" not in text
    assert "RA %" in to_markdown(records)
    assert "RA %" in to_markdown([r for r in alone if r.cell.attack == "bad_pixel"]), (
        "one attack alone is compared with nothing"
    )


def test_swept_methods_are_tested_against_the_variant_with_the_same_value():
    cells = [
        (name, k)
        for name, k in (
            ("skd[steps=5]", 6),
            ("skd[steps=9]", 3),
            ("skdcag[steps=5]", 2),
            ("skdcag[steps=9]", 0),
        )
    ]
    records = [record("bad", name, 0, asr, 5, 1.0) for name, asr in [("none", 10), *cells]]
    table = {r["defense"]: r for r in rows_of(records)}
    p = {name: row["p_removal_vs_skdcag"] for name, row in table.items()}
    removed = {name: [not (i < k) for i in range(10)] for name, k in [("none", 10), *cells]}
    assert p["skd[steps=5]"] == pytest.approx(
        stats.mcnemar(removed["skd[steps=5]"], removed["skdcag[steps=5]"])
    )
    assert p["skd[steps=9]"] == pytest.approx(
        stats.mcnemar(removed["skd[steps=9]"], removed["skdcag[steps=9]"])
    )
    assert p["skdcag[steps=9]"] == pytest.approx(
        stats.mcnemar(removed["skdcag[steps=9]"], removed["skdcag[steps=5]"])
    ), "the first"
    assert p["skdcag[steps=5]"] is None


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
    assert both["weak_one"]["patch"].value == pytest.approx(found["weak_one"]["patch"].value)
    assert (
        both["weak_one"]["patch"].high - both["weak_one"]["patch"].low
        < found["weak_one"]["patch"].high - found["weak_one"]["patch"].low
    )
    text = paper.texts(records)["table_paper.tex"]
    assert r"Method & Pixel & Style \\" in text
    assert r"\textbf{100.0}" in text
    assert "weak\\_one" in text
    assert text.count("{") == text.count("}")
    assert "| none | 0.0 [" in paper.texts(records)["table_paper.md"]


def test_figures_are_written_twice_and_the_same_each_time(records, tmp_path):
    def made(name):
        return {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in plots.write_figures(Store(tmp_path / name), with_losses)
        }

    with_losses = [
        dataclasses.replace(
            r, cost=r.cost | {"losses": {"$x_1$": [2.0, 1.0]}, "losses_attack": [1.0]}
        )
        for r in records[:6]
    ]
    first = made("a")
    assert {str(p) for p in first} == {
        f"plots/{n}.{e}" for n in ("tradeoff", "matrix", "rates", "losses") for e in ("png", "pdf")
    }
    assert all(len(data) > 1000 for data in first.values())
    assert first == made("b")
    assert b"/Type /Font" in first[next(p for p in first if p.name == "rates.pdf")]


def test_a_defense_that_takes_no_time_is_drawn(records):
    """A removal that trains nothing takes half a millisecond, less than the least that the axis
    shows."""
    fast = [
        dataclasses.replace(
            r, cost=r.cost | {"seconds": 5e-4 * (1 + 0.1 * r.cell.seed)} if r.cost else {}
        )
        for r in records
    ]
    fast = [r for r in fast if r.cell.attack == "bad_pixel"]
    assert tradeoff(fast) is not None


def test_numbers_of_points_that_lie_on_one_another_stand_together():
    """And not one above the other, where none can be read."""
    axes = new_figure(3, 3).add_subplot()
    points = {1: (0.0, 0.0), 2: (50.0, 50.0), 3: (0.5, 0.5), 4: (100.0, 100.0)}
    axes.scatter(*zip(*points.values(), strict=True))
    write_numbers(axes, points)
    assert [text.get_text() for text in axes.texts] == ["1, 3", "2", "4"]
    assert [text.xy for text in axes.texts] == [(0.0, 0.0), (50.0, 50.0), (100.0, 100.0)]


def test_titles_of_panels_side_by_side_do_not_meet(records):
    losses = {"skdcag_text": [2.0, 1.0]}
    wide = [
        dataclasses.replace(
            r,
            cell=dataclasses.replace(r.cell, defense=f"frequency_locate+{name}"),
            cost=r.cost | {"losses": losses},
        )
        for r, name in zip(
            records[:4], ("skdcag_text", "skdcag", "skdcag_random_words", "uce"), strict=True
        )
    ]
    with matplotlib.rc_context(STYLE):
        figure = draw_losses(wide)
        figure.draw_without_rendering()
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert len(titles) == 4
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(titles))
    assert titles[-1].x1 < figure.bbox.x1


def test_figures_are_drawn_again_only_of_other_records_or_where_one_is_gone(records, tmp_path):
    paths, store = plots.write_figures(Store(tmp_path), records), Store(tmp_path)
    for path in paths:
        path.write_bytes(b"kept")
    assert plots.write_figures(store, records) == paths
    assert {path.read_bytes() for path in paths} == {b"kept"}
    plots.write_figures(store, records[:-1])
    assert all(path.read_bytes() != b"kept" for path in paths)
    paths[0].unlink()
    assert plots.write_figures(store, records[:-1]) == paths
    assert paths[0].is_file()


def test_a_figure_that_is_made_no_more_goes(records, tmp_path):
    plots.write_figures(Store(tmp_path), records)
    assert (tmp_path / "plots" / "matrix.png").is_file()
    own = tmp_path / "plots" / "mine.png"
    own.write_bytes(b"the user's")
    alone = [r for r in records if r.cell.defense == "none"]
    paths = plots.write_figures(Store(tmp_path), alone)
    assert sorted(tmp_path.glob("plots/*.p*")) == sorted([*paths, own])


def test_no_figure_of_nothing(records, tmp_path):
    failed = [dataclasses.replace(r, status="failed", scores={}, cost={}) for r in records]
    assert plots.write_figures(Store(tmp_path), failed) == []


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
