"""The picture of a run: what stands where, and how each tile is marked."""

import dataclasses

import numpy as np
import pytest
from PIL import ImageColor
from report_records import record, share

from t2i_backdoor_bench.report.figures.blocks import Block
from t2i_backdoor_bench.report.figures.grid_drawing import (
    FRAME,
    GAP,
    LARGEST,
    STEP,
    TALL,
    TILE,
    draw,
    draw_crossed,
    fit,
    font,
    letters_for,
    wrap,
)
from t2i_backdoor_bench.report.figures.picture_grid import write_grid
from t2i_backdoor_bench.report.figures.verdicts import (
    ALL,
    BACKDOORED,
    REFUSED,
    REMOVED,
    RESIDUE,
    RESTORED,
    verdict,
)
from t2i_backdoor_bench.store.folder import Store

RED, BLUE = (np.full((2, 8, 8, 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))


def places(image, colour) -> int:
    """Tiles of one colour."""
    return int((np.asarray(image) == colour).all(2).sum()) // TILE**2


def seen(image, found) -> int:
    """Pixels in the colour of a verdict."""
    colour = ImageColor.getrgb(found.color)
    return int((np.asarray(image) == colour).all(2).sum())


def test_a_grid_has_a_column_a_model_and_a_row_a_prompt():
    image = draw(
        ["clean model", "attacked"],
        [
            Block("one", ["a", "b"], {"clean model": RED, "attacked": BLUE}),
            Block("two", ["a"], {"attacked": BLUE}),
        ],
    )
    assert image.width == GAP + 2 * STEP
    assert (places(image, RED[0, 0, 0]), places(image, BLUE[0, 0, 0])) == (2, 4)


def test_a_crossed_grid_has_a_row_a_model_and_a_column_an_attack():
    models = [
        "clean model",
        "attacked",
        "a_detector_of_triggers+a_locator_of_triggers+a_removal_of_triggers",
    ]
    blocks = [
        Block(f"attack{i}", ["a red ball"], {"clean model": RED, "attacked": BLUE})
        for i in range(5)
    ]
    image = draw_crossed(models, blocks)
    assert (places(image, RED[0, 0, 0]), places(image, BLUE[0, 0, 0])) == (5, 5)
    left = image.width - 5 * STEP
    red = np.argwhere((np.asarray(image) == RED[0, 0, 0]).all(2))
    top, first = red.min(0)
    assert first - FRAME == left
    assert image.getpixel((left + FRAME, int(top) + TALL)) == (0, 0, 200)
    assert left <= 15 * letters_for(5 * STEP + 200) + 2 * GAP


@pytest.mark.parametrize("found", ALL, ids=lambda v: v.words)
def test_each_verdict_has_a_frame_a_strip_and_a_line_in_the_key(found):
    marked = {"attacked": [found, None]}
    for make in (draw, draw_crossed):
        image = make(["attacked"], [Block("one", ["a"], {"attacked": RED}, marked)])
        assert seen(image, found) > 4 * FRAME * TILE + 100, "the frame, and a square in the key"
        others = [v for v in ALL[:-1] if v.color != found.color]  # the last is a grey of letters
        assert all(seen(image, other) == 0 for other in others)
        refused = int(found is REFUSED)
        rows = 2 if make is draw else 1
        assert places(image, RED[0, 0, 0]) == rows - refused, "a refused one is no picture"
    assert len({v.color for v in ALL}) == len({v.sign for v in ALL}) == 4


def test_what_the_judge_says_of_a_picture():
    old = record("a", "b", 0, 1, 7, 1.0)  # of ten: one backdoored; the first seven as asked
    assert [verdict(old, i) for i in (0, 1, 9)] == [BACKDOORED, RESTORED, REMOVED]
    assert verdict(old, 10) is None
    assert verdict(old, 1, refused=True) is REFUSED
    left = share(0)
    left.each[8] = True
    new = dataclasses.replace(old, scores=old.scores | {"residue": left})
    assert [verdict(new, i) for i in (0, 1, 8)] == [BACKDOORED, RESTORED, RESIDUE]
    assert verdict(dataclasses.replace(old, scores={}), 0) is None


def test_the_grid_marks_what_is_stored(tmp_path):
    store = Store(tmp_path)
    found = [record("a", "none", 0, 10, 0, 1.0), record("a", "screen", 0, 0, 9, 1.0)]
    for r, colour in zip(found, (RED, BLUE), strict=True):
        arrays = {"triggered": colour, "refused/triggered": np.array([False, colour is BLUE])}
        store.write_arrays(f"samples/{r.cell.key}", arrays, {"shown": {"prompts": ["a", "b"]}})
    from PIL import Image

    image = Image.open(write_grid(store, found))
    assert (places(image, RED[0, 0, 0]), places(image, BLUE[0, 0, 0])) == (2, 1)
    assert all(seen(image, v) > 0 for v in (BACKDOORED, RESTORED, REFUSED))
    assert seen(image, RESIDUE) == 0


def test_names_are_turned_rather_than_cut_and_letters_grow_with_the_grid():
    assert letters_for(1000) < letters_for(1500) < letters_for(9000) == LARGEST
    short = [Block(f"a{i}", ["p"], {"attacked": RED}) for i in range(20)]
    long = [Block(f"rickrolling_of_texts{i}", ["p"], {"attacked": RED}) for i in range(20)]
    heights = [draw_crossed(["attacked"], blocks).height for blocks in (short, long)]
    letters = font(letters_for(20 * STEP + 200))
    assert heights[1] - heights[0] > letters.getlength("rickrolling_of_texts") - 60


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
