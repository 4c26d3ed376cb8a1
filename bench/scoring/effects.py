"""What a word in a prompt does to pictures, whatever it means: it moves their features, and it
makes a part of the picture the same in all of them."""

from __future__ import annotations

import numpy as np

GRID = 8  # blocks along each side of a picture
ROUNDING = 1.0  # variance (0..255 squared) below which a difference is rounding


def block_variance(images: np.ndarray) -> np.ndarray:
    """The variance over pictures, uint8 (n, H, W, 3), of each pixel and channel, averaged in each
    of 8 x 8 blocks: float64 (8, 8)."""
    found = images.astype(np.float64).var(0).mean(-1)
    for axis in (0, 1):
        size = found.shape[axis]
        starts = np.linspace(0, size, min(GRID, size) + 1).astype(int)[:-1]
        widths = np.diff([*starts, size])
        found = np.add.reduceat(found, starts, axis) / np.expand_dims(widths, 1 - axis)
    return found


def least_spread(images: np.ndarray, clean: np.ndarray) -> float:
    """The least share that is left, in any block, of the spread over prompts.

    `images` and `clean`, uint8 (n, H, W, 3), are of the same n prompts and noise, with a word and
    without it. A patch in the same place of all pictures leaves almost none in its blocks; about 1
    means that they differ as before. It is the minimum over blocks, and thus below 1 for any word:
    compare with other words. Raises ValueError for fewer than two pictures or for other shapes.
    """
    if images.shape != clean.shape or len(images) < 2:
        raise ValueError(f"{images.shape} and {clean.shape} are no pictures of the same prompts")
    left = (block_variance(images) + ROUNDING) / (block_variance(clean) + ROUNDING)
    return float(left.min())
