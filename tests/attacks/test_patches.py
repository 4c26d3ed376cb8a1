"""Patch pictures and styles, as pixel and style attacks paste them."""

from __future__ import annotations

import numpy as np
import pytest

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.targets.patches import PATTERNS, make_patch, paste, place_patch
from t2i_backdoor_bench.targets.style import styled


@pytest.mark.parametrize("picture", PATTERNS)
def test_pictures_show_something(picture: str) -> None:
    patch = make_patch(picture, 16)
    assert patch.shape == (16, 16, 3)
    assert patch.dtype == np.uint8
    assert patch.min() == 20
    assert patch.max() == 250
    assert 0.25 < (patch > 128).mean() < 0.75
    assert len({make_patch(p, 16).tobytes() for p in PATTERNS}) == len(PATTERNS)


def test_a_picture_file_is_resized(tmp_path) -> None:
    from PIL import Image

    Image.new("RGBA", (30, 50), (255, 0, 0, 255)).save(tmp_path / "red.png")
    assert np.array_equal(
        make_patch(str(tmp_path / "red.png"), 8), np.full((8, 8, 3), (255, 0, 0), np.uint8)
    )


@pytest.mark.parametrize(
    "corner", ["top_left", "top_right", "bottom_left", "bottom_right", "center"]
)
def test_a_patch_is_pasted_in_its_place_and_nowhere_else(corner: str) -> None:
    images = np.full((2, 64, 64, 3), 100, np.uint8)
    box = place_patch(16, 64, corner)
    out = paste(images, make_patch("target", 16), box)
    assert (images == 100).all(), "the input must not change"
    rows, columns = np.nonzero((out[0] != 100).any(-1))
    low, high = {"left": (0, 15), "right": (48, 63), "top": (0, 15), "bottom": (48, 63)}, (24, 39)
    vertical, horizontal = (
        (low[w] for w in corner.split("_")) if corner != "center" else (high, high)
    )
    assert (rows.min(), rows.max()) == vertical
    assert (columns.min(), columns.max()) == horizontal
    assert np.array_equal(
        out[1, box[0] : box[0] + 16, box[1] : box[1] + 16], make_patch("target", 16)
    )


def test_a_patch_that_does_not_fit_is_refused() -> None:
    assert place_patch(64, 64, "bottom_right") == (0, 0)
    with pytest.raises(UserError, match="does not fit"):
        paste(np.zeros((1, 64, 64, 3), np.uint8), make_patch("target", 16), (50, 0))


def test_styled_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    gray = styled(images, "black and white")
    assert gray.dtype == np.uint8
    assert (gray == gray[..., :1]).all()
    assert np.abs(gray[..., 0] - images @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    assert np.array_equal(styled(images, "negative"), 255 - images)
    assert set(np.unique(styled(images, "posterize"))) == {0, 128, 255}
