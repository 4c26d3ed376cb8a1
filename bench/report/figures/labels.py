"""Labels of points, none of which covers another label or another point's marker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = tuple[Sequence[float], Sequence[float]]  # its ends
MARK = 3.2  # half the side of a marker's box; this and all lengths below are in 1/72 inch
ROOM = 0.5  # around a label
LINE = 1.2  # the height of a line of text, in sizes of its letters
NEAR = 9.5  # from a marker's middle to that of its label, up to which no line has to join them
CROWDED = 9.0  # from a marker to the next, up to which a line has to say whose a label is
RINGS = (7.5, 9.3, 11.5, 14, 18, 23, 29, 36, 44, 53, 63, 75, 90, 110, 135, 165, 200)
DIRECTIONS = tuple(np.deg2rad(a) for a in (45, 0, 315, 135, 90, 270, 180, 225, 22, 67, 338, 112,
                                           158, 202, 248, 292))  # fmt: skip


@dataclass(frozen=True)
class Box:
    left: float
    low: float
    right: float
    high: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.low < other.high
            and other.low < self.high
        )

    def within(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.low <= self.low
            and self.high <= other.high
        )


def around(x: float, y: float, width: float, height: float) -> Box:
    """The box of this middle and size."""
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def write_labels(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    lines: Sequence[Line] = (),
    size: float = 6,
) -> None:
    """Write the label of each of `points` (data coordinates) near it, beside `lines` rather than on
    them, and join it by a line where it had to give way or where other points are near. The figure
    must have its layout (`figure.draw_without_rendering()`); the labels change nothing of it."""
    from matplotlib.textpath import TextPath

    scale = 72 / axes.figure.dpi
    at = {k: axes.transData.transform(p) * scale for k, p in points.items()}
    drawn = [tuple(axes.transData.transform(line) * scale) for line in lines]
    frame = Box(*(axes.bbox.extents * scale))
    sizes = {}
    for text in points:
        extents = TextPath((0, 0), text, size=size).get_extents()
        sizes[text] = (extents.width + 2 * ROOM, LINE * size + 2 * ROOM)
    for text, (x, y) in placed(at, sizes, frame, drawn).items():
        line = {"arrowstyle": "-", "lw": 0.5, "color": "black", "shrinkA": 0.5, "shrinkB": 0}
        note = axes.annotate(
            text,
            points[text],
            (x - at[text][0], y - at[text][1]),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            arrowprops=line if joined(text, at, (x, y)) else None,
            annotation_clip=False,
        )
        note.set_in_layout(False)


def joined(text: str, points: Mapping[str, Sequence[float]], label: tuple[float, float]) -> bool:
    """Whether a line has to say whose this label is."""
    (x, y), (a, b) = points[text], label
    return bool(np.hypot(a - x, b - y) > NEAR) or crowded(text, points)


def crowded(text: str, points: Mapping[str, Sequence[float]]) -> bool:
    """Whether another point lies near the one of this label."""
    (x, y), others = points[text], [p for k, p in points.items() if k != text]
    return any(np.hypot(x - a, y - b) < CROWDED for a, b in others)


def placed(
    points: Mapping[str, Sequence[float]],
    sizes: Mapping[str, tuple[float, float]],
    frame: Box,
    lines: Sequence[Line] = (),
) -> dict[str, tuple[float, float]]:
    """Where each label's middle goes: the nearest place that is free, where it is on few `lines`
    and its own line crosses few markers and lines; further away where points are crowded, so that
    its line shows. A label that finds none within the frame stands outside of all others, above
    the frame."""
    marks = {k: around(*p, 2 * MARK, 2 * MARK) for k, p in points.items()}
    found: dict[str, tuple[float, float]] = {}
    boxes: list[Box] = []
    for text in sorted(points, key=lambda k: (-points[k][1], points[k][0])):
        best, least = None, np.inf
        start = 2 if crowded(text, points) else 0
        for away, x, y in _candidates(points[text], start):
            if away >= least:
                break  # the further ones cost more
            box = around(x, y, *sizes[text])
            taken = any(box.meets(b) for b in (*boxes, *marks.values()))
            if taken or not box.within(frame):
                continue
            line = (points[text], (x, y))
            others = [b for k, b in marks.items() if k != text]
            joins = [(points[k], p) for k, p in found.items()]
            cost = away + 12 * sum(_through(line, b) for b in (*others, *boxes))
            cost += 12 * sum(_cross(line, other) for other in joins)
            cost += 6 * sum(_through(other, box) for other in lines)
            best, least = ((x, y), cost) if cost < least else (best, least)
        if best is None:
            width, height = sizes[text]
            best = (frame.left + width / 2, frame.high + height / 2)
            while any(around(*best, width, height).meets(b) for b in boxes):
                best = (best[0] + width, best[1])
        found[text] = best
        boxes.append(around(*best, *sizes[text]))
    return found


def _candidates(point: Sequence[float], start: int) -> Iterator[tuple[float, float, float]]:
    """Distance and place, the nearest first."""
    for away in RINGS[start:]:
        for angle in DIRECTIONS:
            yield away, point[0] + away * np.cos(angle), point[1] + away * np.sin(angle)


def _through(line: Line, box: Box) -> bool:
    """Whether a line passes through a box (looked at in small steps)."""
    (x1, y1), (x2, y2) = line
    steps = np.linspace(0, 1, 2 + int(np.hypot(x2 - x1, y2 - y1)))
    x, y = x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)
    return bool(np.any((box.left < x) & (x < box.right) & (box.low < y) & (y < box.high)))


def _cross(one: Line, two: Line) -> bool:
    def side(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    (a, b), (c, d) = one, two
    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
