"""The picture of a run: what stands where."""

import numpy as np

from t2i_backdoor_bench.report.figures import picture_grid as grid
from t2i_backdoor_bench.report.figures.picture_grid import (
    GAP,
    TILE,
    draw,
    draw_crossed,
    fit,
    font,
    wrap,
)

RED, BLUE = (np.full((2, 8, 8, 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))


def places(image, colour) -> int:
    """Tiles of one colour."""
    return int((np.asarray(image) == colour).all(2).sum()) // TILE**2


def test_a_grid_has_a_column_a_model_and_a_row_a_prompt():
    image = draw(
        ["clean model", "attacked"],
        [
            ("one", ["a", "b"], {"clean model": RED, "attacked": BLUE}),
            ("two", ["a"], {"attacked": BLUE}),
        ],
    )
    assert image.width == GAP + 2 * (TILE + GAP)
    assert (places(image, RED[0, 0, 0]), places(image, BLUE[0, 0, 0])) == (2, 4)


def test_a_crossed_grid_has_a_row_a_model_and_a_column_an_attack():
    models = [
        "clean model",
        "attacked",
        "a_detector_of_triggers+a_locator_of_triggers+a_removal_of_triggers",
    ]
    blocks = [
        (f"attack{i}", ["a red ball"], {"clean model": RED, "attacked": BLUE}) for i in range(5)
    ]
    image = draw_crossed(models, blocks)
    assert (places(image, RED[0, 0, 0]), places(image, BLUE[0, 0, 0])) == (5, 5)
    left, top = image.width - 5 * (TILE + GAP), image.height - 3 * (TILE + GAP)
    assert image.getpixel((left + 1, top + 1)) == (200, 0, 0)
    assert image.getpixel((left + 1, top + TILE + GAP + 1)) == (0, 0, 200)
    assert left <= grid.LABEL + 2 * GAP


def test_long_texts_are_wrapped_where_they_can_be():
    letters = font(11)
    assert wrap("short", letters, 200, 2) == ["short"]
    assert wrap("", letters, 200, 2) == []
    lines = wrap("t2ishield_ftt+t2ishield_locate+skdcag[alpha=0.3]", letters, 110, 9)
    assert lines == ["t2ishield_ftt+", "t2ishield_locate+", "skdcag[alpha=0.3]"]
    assert wrap("sembd_attack_x[context=phrase]", letters, 110, 2) == [
        "sembd_attack_x",
        "[context=phrase]",
    ]
    for text in ("one large cyan square on a red background", "w" * 70):
        lines = wrap(text, letters, 90, 30)
        assert all(letters.getlength(line) <= 90 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("one large cyan square on a red background", letters, 90, 2)[-1].endswith("…")
    assert fit("short", letters, 200) == "short"
