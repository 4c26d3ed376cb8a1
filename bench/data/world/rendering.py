"""Scenes drawn as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.data.world.distance_fields import EXTENT, GRID, distance_field
from t2i_backdoor_bench.data.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    RESOLUTION,
    SHAPES,
    SIZES,
    Scene,
)
from t2i_backdoor_bench.data.world.styles import apply_style


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> np.ndarray:
    """Draw scenes. Returns RGB uint8 (n, 64, 64, 3).

    What a caption cannot name (position, rotation, shading, texture, ...) is drawn from `rng`.
    """
    place = _place(scenes, rng)  # the order of the draws is part of every stored result
    back = _background(scenes, rng)
    body = _object(scenes, place, rng)
    cover = np.clip(0.5 - place.distance, 0, 1)[..., None]
    image = back + cover * (body - back)
    styles = np.array([s.style for s in scenes])
    for style in set(styles.tolist()) - {""}:
        image[styles == style] = apply_style(image[styles == style], style)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


@dataclass
class _Place:
    """Where the object of each scene is. Arrays are (n, 64, 64), `radius` (n, 1, 1); in pixels."""

    radius: np.ndarray
    dx: np.ndarray  # from the centre of the object
    dy: np.ndarray
    distance: np.ndarray  # to the outline of the object, negative inside


def _axes() -> tuple[np.ndarray, np.ndarray]:
    """x (1, 1, 64) and y (1, 64, 1) of the middle of each pixel."""
    axis = np.arange(RESOLUTION, dtype=np.float32) + 0.5
    return axis[None, None, :], axis[None, :, None]


def _uniform(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def _place(scenes: Sequence[Scene], rng: np.random.Generator) -> _Place:
    """Draw size, position and rotation."""
    n, size = len(scenes), RESOLUTION
    px, py = _axes()
    low = np.array([SIZES[s.size] for s in scenes], np.float32)
    radius = (low[:, 0] + (low[:, 1] - low[:, 0]) * rng.random(n, np.float32))[:, None, None]
    margin = radius * 1.08 + 1.0
    cx = margin + (size - 2 * margin) * rng.random((n, 1, 1), np.float32)
    cy = margin + (size - 2 * margin) * rng.random((n, 1, 1), np.float32)
    angle = _uniform(rng, n, -0.26, 0.26)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    dx, dy = px - cx, py - cy
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    scale = GRID / (2 * EXTENT)
    column = np.clip((u + EXTENT) * scale, 0, GRID - 1).astype(np.int32)
    row = np.clip((v + EXTENT) * scale, 0, GRID - 1).astype(np.int32)
    fields = np.stack([distance_field(s) for s in SHAPES]).reshape(-1)
    which = np.array([SHAPES.index(s.shape) for s in scenes], np.int32)[:, None, None]
    return _Place(radius, dx, dy, fields[(which * GRID + row) * GRID + column] * radius)


def _palette(
    table: dict[str, tuple[int, int, int]], names: list[str], rng: np.random.Generator
) -> np.ndarray:
    """The named colours with a little noise each, (n, 1, 1, 3)."""
    rgb = np.array([table[name] for name in names], np.float32)[:, None, None, :]
    return rgb + rng.normal(0, 4, rgb.shape).astype(np.float32)


def _background(scenes: Sequence[Scene], rng: np.random.Generator) -> np.ndarray:
    """A colour with a linear gradient and one of four faint textures, (n, 64, 64, 3)."""
    n, size = len(scenes), RESOLUTION
    px, py = _axes()
    color = _palette(BACKGROUNDS, [s.background for s in scenes], rng)
    direction = _uniform(rng, n, 0, 2 * np.pi)
    ramp = (np.cos(direction) * (px - size / 2) + np.sin(direction) * (py - size / 2)) / size
    light = 1 + _uniform(rng, n, 0.0, 0.22) * ramp
    kind = rng.integers(4, size=(n, 1, 1))
    period = _uniform(rng, n, 7, 14) / (2 * np.pi)
    slant = _uniform(rng, n, 0, np.pi)
    across = (np.cos(slant) * px + np.sin(slant) * py) / period
    along = (np.cos(slant) * py - np.sin(slant) * px) / period
    stripes = np.sin(across)
    texture = np.where(kind == 1, stripes, np.where(kind == 2, stripes * np.sin(along), 0)).astype(
        np.float32
    )
    light = light + _uniform(rng, n, 0.015, 0.045) * texture
    grain = rng.normal(0, 2, (n, size, size, 1)).astype(np.float32)
    return light[..., None] * color + (kind == 3)[..., None] * grain


def _object(scenes: Sequence[Scene], place: _Place, rng: np.random.Generator) -> np.ndarray:
    """A colour with shading towards a light; a third of the objects have an outline. Drawn
    everywhere, (n, 64, 64, 3)."""
    n = len(scenes)
    color = _palette(COLOURS, [s.color for s in scenes], rng)
    tilt = _uniform(rng, n, 0, 2 * np.pi)
    slope = np.cos(tilt) * place.dx + np.sin(tilt) * place.dy
    shading = 1 + _uniform(rng, n, 0.0, 0.16) * slope / place.radius
    body = shading[..., None] * color
    outlined = rng.random((n, 1, 1)) < 0.35
    tone = np.where(rng.random((n, 1, 1, 1)) < 0.7, 24.0, 240.0).astype(np.float32)
    edge = np.clip(place.distance + _uniform(rng, n, 1.2, 2.0) + 0.5, 0, 1) * outlined
    body += edge[..., None] * (tone - body)
    return body
