"""The shapes of the world as signed distance fields."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from t2i_backdoor_bench.data.world.scenes import SHAPES

GRID, EXTENT = 320, 2.6  # resolution and half-width (in radii) of the cached fields

_CORNERS = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0.0, -1.0), (0.98, 0.78), (-0.98, 0.78)],
    "arrow": [
        *[(1.1, 0.0), (0.18, -0.86), (0.18, -0.32), (-1.0, -0.32)],
        *[(-1.0, 0.32), (0.18, 0.32), (0.18, 0.86)],
    ],
    "hourglass": [
        *[(-0.82, -1.0), (0.82, -1.0), (0.13, 0.0)],
        *[(0.82, 1.0), (-0.82, 1.0), (-0.13, 0.0)],
    ],
}


@lru_cache
def distance_field(shape: str) -> np.ndarray:
    """Signed distance (negative inside) to the unit shape on a fine grid, in radii.

    float32 (GRID, GRID), y down. Raises ValueError for an unknown shape.
    """
    axis = (np.arange(GRID) + 0.5) / GRID * 2 * EXTENT - EXTENT
    x, y = np.meshgrid(axis, axis)
    return _distance(shape, x, y).astype(np.float32)


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    r = np.hypot(x, y)
    if shape == "circle":
        return r - 0.95
    if shape == "ring":
        return np.abs(r - 0.74) - 0.25
    if shape == "moon":
        return np.maximum(r - 1.0, 0.82 - np.hypot(x - 0.48, y + 0.12))
    return _polygon(_corners(shape), x, y)


def _corners(shape: str) -> Sequence[tuple[float, float]]:
    if shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 1.12, 0.46)
        return list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return list(zip(x / 16.5, y / 16.5 - 0.08, strict=True))
    if shape == "cross":
        a, b = 0.34, 1.0
        top_and_right = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        return [*top_and_right, (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    if shape not in _CORNERS:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return _CORNERS[shape]


def _polygon(corners: Sequence[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) from each (x, y) to a closed polygon."""
    distance = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - t * ex, y - ay - t * ey))
        crosses = (ay > y) != (by > y)
        inside ^= crosses & (x < ex * (y - ay) / (ey if ey else 1e-12) + ax)
    return np.where(inside, -distance, distance)
