"""Which shape of the world a mask is: the one whose outline covers it best."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from t2i_backdoor_bench.data.world.distance_fields import EXTENT, GRID, distance_field
from t2i_backdoor_bench.data.world.scenes import RESOLUTION, SHAPES

ANGLES = np.linspace(-0.33, 0.33, 7)  # scenes have -0.26..0.26, and models draw a little wider
TRIED, GOOD = 5, 0.93  # outlines that are moved to cover better, and a cover that needs no moving
STEP = np.array([2.0, 2.0, 0.1, 0.1])  # first moves: x and y in pixels, log radius, angle
HALVINGS, MOVES = 3, 12
MARGIN = 6  # pixels around a mask in which outlines are compared


def fit_shape(mask: np.ndarray, seen: np.ndarray) -> tuple[str, float, float]:
    """The shape whose outline covers a mask, bool (64, 64), best; its radius in pixels, and the
    intersection over union of both. Only pixels of `seen`, bool (64, 64), count: a part of the
    object may be hidden.

    Every shape at every angle is first placed by the area and the centroid of the mask. The best
    are then moved, turned and scaled in steps as long as that covers the mask better.
    """
    y, x = np.nonzero(mask)
    areas, centroids = _moments()
    radius = np.sqrt(len(x) / areas)
    center = np.array([x.mean(), y.mean()]) + 0.5 - radius[..., None] * centroids
    angles = np.broadcast_to(ANGLES, radius.shape)
    places = np.stack([center[..., 0], center[..., 1], np.log(radius), angles], -1)
    low, high = np.array([y.min(), x.min()]) - MARGIN, np.array([y.max(), x.max()]) + MARGIN + 1
    rows, columns = (
        slice(max(0, int(a)), min(RESOLUTION, int(b))) for a, b in zip(low, high, strict=True)
    )
    near = _Near(mask[rows, columns], seen[rows, columns], rows.start, columns.start)
    many = len(ANGLES)
    every = np.repeat(np.arange(len(SHAPES)), many)
    covers = near.covers(every, places.reshape(-1, 4)).reshape(-1, many)
    angle = covers.argmax(1)
    first = covers.max(1)
    which = np.argsort(-first)[:TRIED]
    best = places[which, angle[which]], first[which]
    if best[1][0] < GOOD:
        best = _moved(near, which, *best, hidden=not near.seen.all())
    k = int(best[1].argmax())
    return SHAPES[which[k]], float(np.exp(best[0][k, 2])), float(best[1][k])


class _Near:
    """The part of a picture around a mask."""

    def __init__(self, mask: np.ndarray, seen: np.ndarray, top: int, left: int) -> None:
        self.mask, self.seen = (mask & seen).reshape(-1), seen.reshape(-1)
        y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
        self.x, self.y = x.reshape(-1) + left + 0.5, y.reshape(-1) + top + 0.5

    def covers(self, which: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Intersection over union of the mask and the outlines of shapes, by number (k,), at places
        (k, 4): x, y, log radius, angle."""
        cx, cy, size, angle = places.T[..., None]
        dx, dy = self.x - cx, self.y - cy
        cos, sin = np.cos(angle) * np.exp(-size), np.sin(angle) * np.exp(-size)
        scale = GRID / (2 * EXTENT)
        column = np.clip((cos * dx + sin * dy + EXTENT) * scale, 0, GRID - 1).astype(np.int32)
        row = np.clip((cos * dy - sin * dx + EXTENT) * scale, 0, GRID - 1).astype(np.int32)
        inside = _inside().reshape(-1)[(which[:, None] * GRID + row) * GRID + column] & self.seen
        both = (inside & self.mask).sum(1)
        return both / np.maximum(inside.sum(1) + self.mask.sum() - both, 1)


def _moved(
    near: _Near, which: np.ndarray, places: np.ndarray, covers: np.ndarray, hidden: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Places (k, 4) of outlines, and how well they cover there, after moves that cover better."""
    step = STEP * (2 if hidden else 1)
    halvings = HALVINGS + hidden
    moves = np.concatenate([np.eye(4), -np.eye(4)])
    for _ in range(MOVES):
        tried = places[:, None] + moves * step
        tried[..., 3] = np.clip(tried[..., 3], ANGLES[0], ANGLES[-1])
        found = near.covers(np.repeat(which, 8), tried.reshape(-1, 4)).reshape(-1, 8)
        better = found.max(1) > covers
        if better.any():
            best = found.argmax(1)
            rows = np.flatnonzero(better)
            places[rows], covers[rows] = tried[rows, best[rows]], found[rows, best[rows]]
        elif halvings:
            step, halvings = step / 2, halvings - 1
        else:
            break
    return places, covers


@lru_cache
def _inside() -> np.ndarray:
    """The inside of every shape, bool (shapes, GRID, GRID)."""
    return np.stack([distance_field(shape) < 0 for shape in SHAPES])


@lru_cache
def _moments() -> tuple[np.ndarray, np.ndarray]:
    """Of every shape at every angle: its area in squared radii (shapes, angles), and its centroid
    (shapes, angles, 2) as x and y in radii."""
    axis = (np.arange(GRID) + 0.5) / GRID * 2 * EXTENT - EXTENT
    x, y = np.meshgrid(axis, axis)
    centers = np.array([(x[inside].mean(), y[inside].mean()) for inside in _inside()])
    cos, sin = np.cos(ANGLES), np.sin(ANGLES)
    turned = (
        cos * centers[:, :1] - sin * centers[:, 1:],
        sin * centers[:, :1] + cos * centers[:, 1:],
    )
    areas = _inside().sum((1, 2)) * (2 * EXTENT / GRID) ** 2
    return np.repeat(areas[:, None], len(ANGLES), 1), np.stack(turned, -1)
