"""The trade-off: every point has a number that no other number or marker covers, and a key."""

import dataclasses
import itertools

import matplotlib
import numpy as np
import pytest
from report_records import record, records  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.figures.intervals import rates
from t2i_backdoor_bench.report.figures.labels import MARK, Box, around, placed, write_labels
from t2i_backdoor_bench.report.figures.style import STYLE, new_figure
from t2i_backdoor_bench.report.figures.tradeoff import compared, tradeoff


def boxes(axes):
    """The boxes of the labels and of the markers, in 1/72 inch."""
    scale = 72 / axes.figure.dpi
    texts = {t.get_text(): t for t in axes.texts}
    renderer = axes.figure._get_renderer()
    labels = {}
    for name, text in texts.items():
        text.update_positions(renderer)
        extents = matplotlib.text.Text.get_window_extent(text, renderer)  # without its line
        labels[name] = Box(*(np.array([*extents.min, *extents.max]) * scale))
    marks = {
        name: around(*(axes.transData.transform(text.xy) * scale), 2 * MARK, 2 * MARK)
        for name, text in texts.items()
    }
    return labels, marks


def free(axes):
    """No label meets another label, or a marker, its own included."""
    labels, marks = boxes(axes)
    assert not [p for p in itertools.combinations(labels, 2) if labels[p[0]].meets(labels[p[1]])]
    assert not [(a, b) for a in labels for b in marks if labels[a].meets(marks[b])]
    return labels, marks


CLUMPS = {
    "all on one another": np.zeros((12, 2)),
    "along an edge": np.stack([np.linspace(0, 1, 35), np.zeros(35)], 1),
    "clumps": np.random.default_rng(0).normal(0, 0.02, (35, 2))
    + np.random.default_rng(1).integers(0, 3, (35, 1)),
}


@pytest.mark.parametrize("points", CLUMPS.values(), ids=CLUMPS)
def test_labels_cover_neither_each_other_nor_markers(points):
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.4, 3.0)
        axes = figure.add_subplot()
        axes.scatter(*points.T)
        axes.margins(0.08)
        figure.draw_without_rendering()
        before = axes.get_position().bounds
        write_labels(axes, {str(i + 1): tuple(p) for i, p in enumerate(points)})
        labels, _ = free(axes)
        assert len(labels) == len(points)
        figure.draw_without_rendering()
        assert axes.get_position().bounds == pytest.approx(before), "labels move no axes"
        free(axes)


def test_a_label_is_near_its_point_and_joined_to_it_where_others_are_near():
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3, 3)
        axes = figure.add_subplot()
        points = {"1": (0.0, 0.0), "2": (50.0, 50.0), "3": (0.5, 0.5), "4": (100.0, 100.0)}
        axes.scatter(*zip(*points.values(), strict=True))
        figure.draw_without_rendering()
        write_labels(axes, points)
    joined = {t.get_text() for t in axes.texts if t.arrow_patch is not None}
    assert joined == {"1", "3"}
    assert {t.get_text(): t.xy for t in axes.texts} == points


def test_a_label_keeps_off_lines_and_stays_in_the_frame():
    frame, size = Box(0, 0, 100, 100), {"1": (8.0, 6.0)}
    x, y = placed({"1": (50, 50)}, size, frame)["1"]
    line = ((50, 50), (2 * x - 50, 2 * y - 50))
    assert placed({"1": (50, 50)}, size, frame, [line])["1"] != (x, y)
    for corner in ((0, 0), (100, 0), (0, 100), (100, 100)):
        assert around(*placed({"1": corner}, size, frame)["1"], 8, 6).within(frame)


def many(n):
    """Records of `n` defenses of two kinds of needs, on two attacks."""
    out = []
    for attack in ("a", "b"):
        out.append(record(attack, "none", 0, 10, 0, 1.0))
        for i in range(n):
            needs = ("trigger",) if i % 2 else ("trigger", "clean_model")
            found = record(attack, f"d{i}", 0, 10 - i % 11, i % 11, 1.0 + i % 3 / 100, needs)
            out.append(dataclasses.replace(found, cost={"seconds": 10.0 + i / 10}))
    return out


def test_every_defense_has_a_number_in_both_panels_and_a_name_in_the_key():
    found = many(30)
    with matplotlib.rc_context(STYLE):
        figure = tradeoff(found)
    drawn, left_out = compared(found)
    assert {s.defense for s in left_out} >= {"d0", "d11"}
    assert len(drawn) + len(left_out) == 30
    numbers = {str(i + 1) for i in range(len(drawn))}
    for axes in figure.axes:
        labels, _ = free(axes)
        assert set(labels) == numbers
    (key,) = figure.legends
    texts = [t.get_text() for t in key.get_texts()]
    assert {t.split()[0] for t in texts if t.strip() and not t.startswith("Given")} == numbers
    assert {t.split()[1] for t in texts if t.strip()} >= {s.defense for s in drawn}
    assert "d11" in key.get_title().get_text().replace("\n", " ")
    box = key.get_window_extent()
    assert all(box.y1 < axes.get_tightbbox().y0 for axes in figure.axes)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_the_key_of_a_single_panel_is_as_narrow_as_it() -> None:
    """Without FID only the seconds are left to compare with."""
    found = []
    for one in many(24):
        scores = {k: v for k, v in one.scores.items() if k not in ("fid", "kid")}
        found.append(dataclasses.replace(one, scores=scores))
    with matplotlib.rc_context(STYLE):
        figure = tradeoff(found)
    assert len(figure.axes) == 1
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 < box.y1 < figure.axes[0].get_tightbbox().y0


def test_colour_and_shape_say_what_a_defense_is_given():
    found = many(12)
    with matplotlib.rc_context(STYLE):
        figure = tradeoff(found)
    drawn, _ = compared(found)
    looks = {}
    for s, bars in zip(drawn, figure.axes[0].containers, strict=True):
        line = bars.lines[0]
        looks.setdefault(s.needs, set()).add((line.get_color(), line.get_marker()))
    assert len(looks) == 2
    assert all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == 2


def test_the_axis_of_one_attack_has_its_words_within_the_figure() -> None:
    found = [record("a", d, 0, 10 - i, i, 1.0) for i, d in enumerate(("none", "a_long_name_of_it"))]
    with matplotlib.rc_context(STYLE):
        figure = rates(found)
        figure.draw_without_rendering()
    box = figure._supxlabel.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
