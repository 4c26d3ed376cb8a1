"""The figure of rates: an axis on which both ends are legible, and what is drawn on it."""

import dataclasses
import itertools

import matplotlib
import numpy as np
import pytest
from report_records import records, share  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.figures.intervals import TICKS, from_ends, rates, toward_ends
from t2i_backdoor_bench.report.figures.style import STYLE


def drawn(found):
    with matplotlib.rc_context(STYLE):
        figure = rates(found)
        figure.draw_without_rendering()
    return figure


def test_the_axis_widens_toward_both_ends_alike():
    percent = np.array([0, 0.3, 1, 5, 20, 50, 80, 95, 99, 99.7, 100])
    places = toward_ends(percent)
    assert np.all(np.diff(places) > 0)
    assert places == pytest.approx(-places[::-1])
    assert from_ends(places) == pytest.approx(percent, abs=1e-3)
    whole = places[-1] - places[0]
    assert toward_ends(np.array(1.0)) - places[0] > 0.1 * whole, "one percent is a tenth of it"
    assert from_ends(places[0] - 1) == 0


def test_ticks_do_not_meet_and_both_ends_are_inside(records):
    figure = drawn(records)
    for axes in figure.axes:
        assert axes.get_xlim() == (0, 100)
    labels = [t for t in figure.axes[0].get_xticklabels() if t.get_text()]
    assert [t.get_text() for t in labels] == [str(t) for t in TICKS]
    boxes = [t.get_window_extent() for t in labels]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert "widens" in figure._supxlabel.get_text()


def test_residue_is_a_third_series_where_it_was_measured(records):
    def names(figure):
        return [t.get_text() for t in figure.legends[0].get_texts()]

    assert names(drawn(records)) == ["ASR (backdoored)", "Restored"]
    facts = {"residue": {"better": "lower", "percent": True}}
    new = [
        dataclasses.replace(
            r,
            directions=r.directions | facts,
            scores=r.scores | {"residue": share(1)} if r.scores else {},
        )
        for r in records
    ]
    figure = drawn(new)
    assert names(figure) == ["ASR (backdoored)", "Residue", "Restored"]
    series = figure.axes[0].containers
    x = [list(found.lines[0].get_xdata()) for found in series]
    assert x[1] == pytest.approx([10.0, 10.0, 10.0])
    assert x[0] == pytest.approx([100.0, 0.0, 50.0])
    heights = np.array([found.lines[0].get_ydata() for found in series])
    assert np.all(np.diff(heights, axis=0) > 0), "one above the other, not on it"


def test_an_attack_that_did_not_take_hold_says_so_and_is_faint(records):
    weak = [
        dataclasses.replace(r, scores=r.scores | {"asr": share(2)})
        if (r.cell.attack, r.cell.defense) == ("bad_style", "none")
        else r
        for r in records
    ]
    held, not_held = drawn(weak).axes
    assert held.get_title() == "bad_pixel"
    assert "did not take hold" in not_held.get_title()
    assert not_held.containers[0].lines[0].get_alpha() < 1
