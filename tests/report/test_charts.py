"""Inline SVG: marks are where their numbers say, in the colour of their group; axes have round
ticks; text is text."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as xml

import pytest

from t2i_backdoor_bench.report.html import svg as charts
from t2i_backdoor_bench.report.html import templates
from t2i_backdoor_bench.report.html.svg import Axis, Point

EVIL = "<b>&\"'"


def render(chart) -> xml.Element:
    return xml.fromstring(templates.render("chart.html", chart=chart))


def drawn(*points: Point, **more) -> xml.Element:
    return render(charts.scatter("title", points, "x", "y", **more))


def test_axes():
    axis = Axis(0, 10, 100, 200)
    assert [axis(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert axis.ticks() == [0, 2, 4, 6, 8, 10]
    log = Axis(0.1, 1000, 0, 40, log=True)
    assert [log(v) for v in (0.1, 1, 10, 1000)] == pytest.approx([0, 10, 20, 40])
    assert log(0) == 0, "what a logarithm cannot show stands at the edge"
    assert log.ticks() == pytest.approx([0.1, 1, 10, 100, 1000])
    assert Axis(97.1, 99.3, 0, 1).ticks() == pytest.approx([97.5, 98, 98.5, 99])
    one = charts.make_axis([3.0], 0, 1)
    assert one.low < 3 < one.high
    assert charts.make_axis([0.0, 0.0], 0, 1, floor=0).low == 0


def test_a_point_its_bars_its_name_and_its_group():
    first, second = Point("one", 1, 10, ys=(5, 12), group=0), Point(EVIL, 2, 20, group=1, tip=EVIL)
    root = drawn(first, second, line=("undefended", 1.5))
    circle = root.find("circle")
    assert circle.get("class") == "mark c0"
    square = root.find("polygon")
    assert square.get("class") == "mark c1"
    assert square.find("title").text == EVIL
    names = {
        t.text: t.get("class")
        for t in root.findall("text")
        if (t.get("class") or "").startswith("name")
    }
    assert names == {"one": "name", EVIL: "name"}
    (bar,) = [e for e in root.findall("line") if e.get("class") == "bar c0"]
    low, high = sorted(float(bar.get(k)) for k in ("y1", "y2"))
    assert low < float(circle.get("cy")) < high
    assert float(bar.get("x1")) == float(bar.get("x2")) == float(circle.get("cx"))
    x = float(root.find("line[@class='reference']").get("x1"))
    corners = [float(v) for v in re.findall(r"([\d.]+),", square.get("points"))]
    assert float(circle.get("cx")) < x < sum(corners) / len(corners)


def test_an_axis_of_changes_is_even_near_nothing_and_logarithmic_beyond():
    axis = charts.make_axis([-3.0, 0.0, 400.0], 0, 100, even=10)
    assert axis.ticks() == [-10, 0, 10, 20, 50, 100, 200, 500]
    places = [axis(v) for v in (0, 1, 2, 100, 200, 400)]
    assert places[2] - places[1] == pytest.approx(places[1] - places[0], rel=0.02)
    assert places[5] - places[4] == pytest.approx(places[4] - places[3], rel=0.02)


def test_labels_cover_neither_each_other_nor_points_and_are_joined_to_theirs():
    root = drawn(*(Point(str(i), 1 + i % 3 / 50, 10, group=i) for i in range(20)))
    labels = [t for t in root.findall("text") if t.get("class") == "name"]
    assert {t.text for t in labels} == {str(i) for i in range(20)}
    boxes = [(float(t.get("x")), float(t.get("y")) - 3.5, 3.1 * len(t.text)) for t in labels]
    for (x, y, half), (a, b, other) in itertools.combinations(boxes, 2):
        assert abs(x - a) > half + other or abs(y - b) > 9
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.findall("circle")]
    for (x, y, half), (a, b) in itertools.product(boxes, circles):
        assert abs(x - a) > half + 4 or abs(y - b) > 9
    assert len(root.findall("line[@class='lead']")) == 20


def test_nothing_to_draw():
    assert charts.scatter("t", [], "x", "y") is None


def test_bands_are_within_the_frame_around_their_median_and_log_where_they_span_far():
    places, rows = [0.25, 0.75], [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [4.0, 5.0], [5.0, 6.0]]
    root = render(charts.bands(EVIL, places, rows, 1, ("x", "y")))
    every, half = root.findall("polygon")
    (median,) = root.findall("polyline")
    assert median.find("title").text == EVIL
    assert {e.get("class") for e in (every, half)} == {"band c1"}

    def ys(shape):
        return [float(p.split(",")[1]) for p in shape.get("points").split()]

    (a, b), (c, d), (e, f, g, h) = ys(median), ys(half)[:2], ys(every)
    assert (h - a) == pytest.approx(a - e, abs=0.2), "1, 3 and 5"
    assert (a - c) == pytest.approx((a - e) / 2, abs=0.2), "3, 4 and 5"
    assert f < d < b < g
    assert all(charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM for y in ys(every))
    steep = render(charts.bands("t", [0, 0.5, 1], [[100.0, 10.0, 1.0]] * 5, 1, ("x", "y")))
    a, b, c = ys(steep.find("polyline"))
    assert b - a == pytest.approx(c - b, abs=0.2)


def test_curves_stand_beside_each_other_and_join_their_points():
    lines = [
        [Point("", x, y, ys=(y - 5, y + 5), group=k, tip=f"{k} {x}") for x, y in ((0, 10), (1, 20))]
        for k in range(2)
    ]
    chart = charts.curves("title", lines, ("steps", "ASR, %"), {0: "5", 1: EVIL})
    root = render(chart)
    first, second = ([e for e in root if f"c{k}" in (e.get("class") or "").split()] for k in (0, 1))
    kinds = [e.get("class").split()[0] for e in (*first, *second)]
    assert kinds.count("line") == 2
    assert kinds.count("bar") == kinds.count("mark") == 4
    (path,) = [e.get("points") for e in first if e.tag == "polyline"]
    circles = [(e.get("cx"), e.get("cy")) for e in first if e.tag == "circle"]
    assert path == " ".join(f"{x},{y}" for x, y in circles)
    (beside,) = [e.get("points") for e in second if e.tag == "polyline"]
    apart = float(beside.split(",")[0]) - float(path.split(",")[0])
    assert apart == pytest.approx(3.5, abs=0.11)
    ticks = [t.text for t in root.findall("text") if t.get("class") == "tick"]
    assert {"5", EVIL} <= set(ticks)


def test_a_tick_that_would_touch_the_one_before_is_left_out():
    line = [Point("", x, 1.0, group=0) for x in (5, 6, 100)]
    root = render(charts.curves("t", [line], ("x", "y"), {5: "five", 6: "six", 100: "hundred"}))
    ticks = {t.text for t in root.findall("text") if t.get("class") == "tick"}
    assert {"five", "hundred"} <= ticks
    assert "six" not in ticks
    assert len(root.findall("circle")) == 3
