"""Heat maps: what is grey, how many decimals, which colours, and their key."""

import dataclasses

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from report_records import record, records  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.figures.heat_map import colours, heat_map
from t2i_backdoor_bench.report.figures.style import BAD_TO_GOOD, GREYED, STYLE, ink
from t2i_backdoor_bench.report.matrix import matrices
from t2i_backdoor_bench.report.resolution import decimals


def drawn(found, metric="restoration_accuracy"):
    matrix = next(m for m in matrices(found) if m.way.name == metric)
    with matplotlib.rc_context(STYLE):
        figure = heat_map(matrix, found)
        figure.draw_without_rendering()
    return matrix, figure


def weak(found):
    """The attack bad_style, as if it worked on one picture in ten."""
    return [
        dataclasses.replace(
            r, scores=r.scores | {"asr": record("a", "b", 0, 1, 0, 1.0).scores["asr"]}
        )
        if (r.cell.attack, r.cell.defense) == ("bad_style", "none")
        else r
        for r in found
    ]


def test_shares_of_a_hundred_pictures_are_whole_numbers(records):
    assert decimals(records, "asr") == 0, "two seeds of ten pictures"
    matrix, figure = drawn(records)
    texts = {t.get_text() for t in figure.axes[0].texts}
    assert texts == {"–" if np.isnan(v) else f"{v:.0f}" for v in matrix.values.ravel()}
    more = [
        dataclasses.replace(
            r, scores={k: dataclasses.replace(s, n=51) for k, s in r.scores.items()}
        )
        for r in records
    ]
    assert decimals(more, "asr") == 1
    assert "95.0" in {t.get_text() for t in drawn(more)[1].axes[0].texts}
    assert decimals(records, "unknown") == 1


def test_an_attack_that_did_not_take_hold_is_grey_and_the_key_says_why(records):
    _, held = drawn(records)
    assert not held.axes[0].patches
    assert not held.legends
    matrix, figure = drawn(weak(records))
    (column,) = figure.axes[0].patches
    assert to_hex(column.get_facecolor()) == GREYED
    assert matrix.attacks[round(column.get_x() + column.get_width() / 2)] == "bad_style"
    (legend,) = figure.legends
    assert "bad_style: ASR 10.0 %" in legend.get_texts()[0].get_text()
    assert figure.bbox.contains(*legend.get_window_extent().min)


def test_colours_have_a_key_and_good_is_good_whichever_way(records):
    _, figure = drawn(records)
    key = figure.axes[1]
    assert (key.get_ylim(), figure.axes[0].images[0].get_clim()) == ((0, 100), (0, 100))
    assert "higher is better" in figure.axes[0].get_title()
    bad, _, good = BAD_TO_GOOD
    assert to_hex(colours("higher")(1.0)) == to_hex(colours("lower")(0.0)) == good
    assert to_hex(colours("higher")(0.0)) == bad
    assert to_hex(colours("none")(1.0)) not in (bad, good)


def test_letters_have_contrast():
    assert ink((1.0, 1.0, 1.0)) == "#000"
    assert ink((0.0, 0.0, 0.0)) == "#fff"
    for color in BAD_TO_GOOD:
        rgb = matplotlib.colors.to_rgb(color)
        light = matplotlib.colors.to_rgb(ink(rgb))
        one, two = (
            sum(
                w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                for w, c in zip((0.2126, 0.7152, 0.0722), v, strict=True)
            )
            for v in (rgb, light)
        )
        assert (max(one, two) + 0.05) / (min(one, two) + 0.05) > 4.5
