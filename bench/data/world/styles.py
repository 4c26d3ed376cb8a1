"""Styles that redraw a picture."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.data.world.scenes import STYLES


def apply_style(image: np.ndarray, style: str) -> np.ndarray:
    """Redraw images in a style: one of `STYLES`, or "posterize".

    `image` is float32 (n, H, W, 3) in 0..255; so is the result. Raises ValueError for an unknown
    style.
    """
    if style == "":
        return image
    if style not in _STYLES:
        known = ", ".join([*(s for s in STYLES if s), "posterize"])
        raise ValueError(f"unknown style {style!r}; known: {known}")
    return _STYLES[style](image)


def _gray(image: np.ndarray) -> np.ndarray:
    """Luminance, (n, H, W)."""
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def _black_and_white(image: np.ndarray) -> np.ndarray:
    return np.repeat(_gray(image)[..., None], 3, -1)


def _sepia(image: np.ndarray) -> np.ndarray:
    scale = np.array([1.07, 0.86, 0.62], np.float32)
    shift = np.array([14, 8, 2], np.float32)
    return np.clip(_gray(image)[..., None] * scale + shift, 0, 255)


def _negative(image: np.ndarray) -> np.ndarray:
    return 255 - image


def _posterize(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0, 255) / 127.5) * 127.5


def _pencil_sketch(image: np.ndarray) -> np.ndarray:
    gx = np.diff(image, axis=2, append=image[:, :, -1:])
    gy = np.diff(image, axis=1, append=image[:, -1:])
    edges = np.sqrt((gx**2 + gy**2).sum(-1))
    thick = np.maximum(edges, np.roll(edges, 1, 2))
    paper = 236 + 0.05 * (_gray(image) - 128)
    drawn = np.clip(paper - 1.5 * np.maximum(thick - 26, 0), 40, 255)
    return np.repeat(drawn[..., None], 3, -1)


def _pixel_art(image: np.ndarray) -> np.ndarray:
    n, h, w, c = image.shape
    block = max(1, h // 16)
    small = image.reshape(n, h // block, block, w // block, block, c).mean((2, 4))
    small = np.round(np.clip(small, 0, 255) / 51) * 51
    return np.repeat(np.repeat(small, block, 1), block, 2)


_STYLES = {
    "black and white": _black_and_white,
    "sepia": _sepia,
    "negative": _negative,
    "posterize": _posterize,
    "pencil sketch": _pencil_sketch,
    "pixel art": _pixel_art,
}
