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
    assert names == {"one": "name c0", EVIL: "name c1"}
    (bar,) = [e for e in root.findall("line") if e.get("class") == "bar c0"]
    low, high = sorted(float(bar.get(k)) for k in ("y1", "y2"))
    assert low < float(circle.get("cy")) < high
    assert float(bar.get("x1")) == float(bar.get("x2")) == float(circle.get("cx"))
    x = float(root.find("line[@class='reference']").get("x1"))
    corners = [float(v) for v in re.findall(r"([\d.]+),", square.get("points"))]
    assert float(circle.get("cx")) < x < sum(corners) / len(corners)


def test_names_do_not_cover_each_other():
    root = drawn(*(Point(f"name{i}", 1, 10, group=i) for i in range(5)))
    heights = sorted(
        float(t.get("y")) for t in root.findall("text") if (t.get("class") or "").startswith("name")
    )
    assert min(b - a for a, b in itertools.pairwise(heights)) > 8


def test_nothing_to_draw():
    assert charts.scatter("t", [], "x", "y") is None
    assert charts.curves("t", [("a", 10, [])], "x", "y") is None


def test_curves_are_within_the_frame_and_log_where_they_span_far():
    flat = render(
        charts.curves("t", [("a", 100, [1.0, 2.0, 1.5]), (EVIL, 50, [2.0, 2.0])], "x", "y")
    )
    lines = flat.findall("polyline")
    assert [line.find("title").text for line in lines] == ["a", EVIL]
    points = [tuple(map(float, p.split(","))) for line in lines for p in line.get("points").split()]
    assert all(
        charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
        and charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM
        for x, y in points
    )
    steep = render(charts.curves("t", [("a", 100, [100.0, 10.0, 1.0])], "x", "y"))
    a, b, c = [float(p.split(",")[1]) for p in steep.find("polyline").get("points").split()]
    assert b - a == pytest.approx(c - b, abs=0.2)
