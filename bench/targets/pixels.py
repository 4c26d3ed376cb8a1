"""Numbers that judges compute from the pixels of pictures, without a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from t2i_backdoor_bench.targets.patches import window

# the coloured part of a small outlined object on white, gray or black can be 1.3 % of a picture
CHROMA_PERCENTILE = 99
QUANTILES = 32
SLICE = 256  # images in memory at a time


def in_slices(statistic: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """A statistic of each image (n,), computed for some of the images at a time."""
    return np.concatenate([statistic(images[i : i + SLICE]) for i in range(0, len(images), SLICE)])


def patch_distance(images: np.ndarray, patch: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Root mean square difference (0..1) between `patch`, uint8 (h, w, 3), and the same place of
    each image, uint8 (n, H, W, 3): (n,)."""
    if len(images) > SLICE:
        return in_slices(lambda part: patch_distance(part, patch, box), images)
    shown = images[window(images, patch, box)]
    difference = shown.astype(np.float32) - patch.astype(np.float32)
    return np.sqrt((difference**2).mean((1, 2, 3))) / 255


def chroma(images: np.ndarray) -> np.ndarray:
    """99th percentile over the pixels of each uint8 image (n, H, W, 3) of the largest minus the
    smallest channel, 0..1: (n,). Zero for a gray image."""
    if len(images) > SLICE:
        return in_slices(chroma, images)
    # a reduction over the short last axis is several times slower
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return np.percentile(spread.reshape(len(images), -1), CHROMA_PERCENTILE, axis=1) / 255


def color_quantiles(images: np.ndarray) -> np.ndarray:
    """How the pixels of uint8 images (n, H, W, 3) are distributed, wherever they are: 32 quantiles
    each of red, green, blue, red and blue minus luminance, chroma, and the steps of the luminance
    down and to the right, 0..1: float32 (n, 256)."""
    x = images.astype(np.float32) / 255
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    steps = [np.abs(np.diff(gray, axis=axis)) for axis in (1, 2)]
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    maps = [red, green, blue, red - gray, blue - gray, spread, *steps]
    found = [np.quantile(m.reshape(len(x), -1), levels, axis=1).T for m in maps]
    return np.concatenate(found, 1).astype(np.float32)
