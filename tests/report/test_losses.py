"""Training losses: one panel a method, its runs as a median in bands."""

import dataclasses
import itertools

import matplotlib
import numpy as np
from report_records import records  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.figures.losses import (
    COLUMNS,
    LINES,
    Method,
    _title,
    losses,
    methods,
    summary,
)
from t2i_backdoor_bench.report.figures.style import STYLE


def trained(found, names, curves=([2.0, 1.0],)):
    """A record of each name, whose defense was trained with the curve that is its turn."""
    return [
        dataclasses.replace(
            r,
            cell=dataclasses.replace(r.cell, defense=name, seed=i),
            cost={"losses": {name.split("+")[-1]: curve}},
        )
        for i, (r, name, curve) in enumerate(
            zip(itertools.cycle(found), names, itertools.cycle(curves), strict=False)
        )
    ]


def drawn(found):
    with matplotlib.rc_context(STYLE):
        pages = losses(found)
        for page in pages:
            page.draw_without_rendering()
    return pages


def test_a_summary_is_that_of_numpy_at_equal_shares_of_the_training():
    places, bands = summary([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    assert places.tolist() == [0.25, 0.75]
    assert bands[[0, 2, 4]].tolist() == [[1, 2], [3, 4], [5, 9]]
    assert bands[1].tolist() == [2, 3]
    places, bands = summary([[0.0, 4.0], [0.0, 1.0, 3.0, 4.0]])  # both rise by 8 over the whole
    assert places.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert bands[2].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_all_runs_of_a_method_are_one_line_and_two_bands(records):
    curves = [[8.0, 4.0], [6.0, 3.0], [5.0, 2.0], [4.0, 1.0], [1.0, 0.5]]
    (figure,) = drawn(trained(records[:1] + records[-1:], ["skdcag"] * 5, curves))
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_ydata().tolist() == [5.0, 2.0]
    every, half = (band.get_paths()[0].get_extents() for band in axes.collections)
    assert (every.y0, every.y1) == (0.5, 8.0)
    assert (half.y0, half.y1) == (1.0, 6.0)
    assert axes.get_title() == "skdcag\n(2 attacks, 5 seeds)"
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == ["median, defense", "middle half of the runs", "all runs"]


def test_attacks_come_first_and_one_run_has_no_band(records):
    found = trained(records[:1], ["skdcag"])
    found[0].cost["losses_attack"] = [3.0, 2.0]
    assert list(methods(found)) == ["bad_pixel", "skdcag"]
    assert list(methods([found[0], found[0]])["bad_pixel"].curves) == [[3.0, 2.0]], "trained once"
    (figure,) = drawn(found)
    assert not any(axes.collections for axes in figure.axes)
    one, two = (axes.lines[0].get_color() for axes in figure.axes)
    assert one != two


def test_a_chain_names_its_parts_only_where_it_trains_several(records):
    several = dataclasses.replace(records[0], cost={"losses": {"skd": [1.0], "uce": [2.0]}})
    several = dataclasses.replace(several, cell=dataclasses.replace(several.cell, defense="a+b"))
    assert list(methods([several])) == ["a+b: skd", "a+b: uce"]
    assert list(methods(trained(records, ["frequency_locate+skd"]))) == ["frequency_locate+skd"]


def test_titles_of_panels_side_by_side_do_not_meet_and_many_methods_are_several_pages(records):
    names = ("skdcag_text", "skdcag", "skdcag_random_words", "t2ishield_locate+uce_phrase")
    names = [f"t2ishield_ftt+{names[i % 4]}[seed={i}]" for i in range(COLUMNS * LINES + 3)]
    first, second = drawn(trained(records, names))
    assert (len(first.axes), len(second.axes)) == (COLUMNS * LINES, 3)
    boxes = [axes.title.get_window_extent() for axes in first.axes]
    for row in (boxes[i : i + COLUMNS] for i in range(0, len(boxes), COLUMNS)):
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(row))
        assert row[-1].x1 < first.bbox.x1
    assert np.all([box.y1 < first.legends[0].get_window_extent().y0 for box in boxes])


def test_a_title_breaks_before_options_that_do_not_fit() -> None:
    method = Method("defense")
    title = _title("concept_ablation[steps=120]", method)
    assert title.split("\n")[:2] == ["concept_ablation", "[steps=120]"]
    assert _title("skdcag[steps=10]", method).split("\n")[0] == "skdcag[steps=10]"
