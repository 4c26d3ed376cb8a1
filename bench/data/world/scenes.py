"""The attributes of a scene, the combinations that are held out of training, and random scenes."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESOLUTION = 64
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "moon",
    "arrow",
    "hourglass",
)
COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 132, 24),
    "yellow": (245, 221, 48),
    "green": (46, 158, 66),
    "cyan": (64, 205, 214),
    "blue": (42, 82, 214),
    "purple": (122, 48, 168),
    "pink": (248, 150, 190),
}
BACKGROUNDS = COLOURS | {"white": (246, 246, 246), "gray": (128, 128, 128), "black": (16, 16, 16)}
SIZES = {"small": (12.5, 15.0), "large": (20.0, 23.0)}  # radius in pixels
STYLES = {
    "": "",
    "black and white": "a black and white photo of",
    "sepia": "a sepia photo of",
    "negative": "a negative of",
    "pencil sketch": "a pencil sketch of",
    "pixel art": "a pixel art of",
}
STYLE_SHARE = 0.3
HELD_OUT_SHARE = 0.1


class Scene(NamedTuple):
    shape: str
    color: str
    background: str
    size: str
    style: str = ""


def is_held_out(shape: str, color: str, background: str) -> bool:
    """Whether this combination never occurs in training (a fixed tenth, chosen by checksum)."""
    return zlib.crc32(f"{shape}/{color}/{background}".encode()) % 1000 < 1000 * HELD_OUT_SHARE


@lru_cache
def combinations(held_out: bool) -> tuple[tuple[str, str, str], ...]:
    """All (shape, colour, background) with two different colours: those held out of training, or
    the others."""
    every = ((s, c, b) for s in SHAPES for c in COLOURS for b in BACKGROUNDS if b != c)
    return tuple(t for t in every if is_held_out(*t) == held_out)


def sample_scenes(
    n: int, rng: np.random.Generator, held_out: bool = False, style_share: float = STYLE_SHARE
) -> list[Scene]:
    """Draw `n` scenes uniformly from the training combinations, or from the held-out ones."""
    table = combinations(held_out)
    picks = rng.integers(len(table), size=n)
    sizes = rng.integers(len(SIZES), size=n)
    styled = rng.random(n) < style_share
    styles = rng.integers(1, len(STYLES), size=n) * styled
    size_names, style_names = tuple(SIZES), tuple(STYLES)
    return [
        Scene(*table[p], size_names[s], style_names[y])
        for p, s, y in zip(picks, sizes, styles, strict=True)
    ]
