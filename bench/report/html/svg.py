"""Charts as values that `chart.html` writes as inline SVG: they take their colours from the page,
stay sharp, and are read out by their title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT = 380, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Shape:
    """One element: its attributes, its text, and what a pointer shows on it."""

    tag: str
    attributes: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    title: str = ""


@dataclass(frozen=True)
class Chart:
    title: str
    shapes: tuple[Shape, ...]
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Point:
    """A point with its intervals (None: none), the number of its group (colour and shape), and the
    sentence that a pointer shows."""

    name: str
    x: float
    y: float
    xs: tuple[float | None, float | None] = (None, None)
    ys: tuple[float | None, float | None] = (None, None)
    group: int = 0
    tip: str = ""


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, v = (
            (math.log10(x) for x in (self.low, self.high, max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (min(max(v, low), high) - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the axis."""
        if self.log:
            found = [
                m * 10**k
                for k in range(
                    math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
                )
                for m in (1, 2, 5)
            ]
            found = [v for v in found if self.low * 0.999 <= v <= self.high * 1.001]
            tens = [v for v in found if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]
            return (
                tens
                if len(found) > most and len(tens) > 1
                else found[:: max(1, -(-len(found) // most))]
            )
        step = (self.high - self.low) / most
        unit = 10 ** math.floor(math.log10(step))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= step)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def make_axis(
    values: Sequence[float],
    start: float,
    end: float,
    log: bool = False,
    floor: float | None = None,
    top: float | None = None,
) -> Axis:
    """An axis that holds the values with some room; `floor` and `top` are never passed."""
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.4, high * 1.4, start, end, True)
    room = 0.08 * (high - low) or abs(high) * 0.05 or 0.5
    low, high = low - room, high + room
    low = max(low, floor) if floor is not None else low
    high = min(high, top) if top is not None else high
    return Axis(low, high if high > low else low + 1, start, end)


def brief(value: float) -> str:
    """A tick's label."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.0e}"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Shape:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return Shape("line", {"class": kind} | {k: f"{v:.1f}" for k, v in ends.items()})


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> Shape:
    place = {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}"}
    return Shape("text", place | ({} if anchor == "start" else {"text-anchor": anchor}), text)


def _frame(title: str, x: Axis, y: Axis, xlabel: str, ylabel: str, marks: Sequence[Shape]) -> Chart:
    """Axes, grid and labels around the marks."""
    shapes = []
    for v in y.ticks():
        shapes.append(_line("grid", LEFT, y(v), WIDTH - RIGHT, y(v)))
        shapes.append(_text("tick", LEFT - 5, y(v) + 3.5, brief(v), "end"))
    for v in x.ticks():
        shapes.append(_line("grid", x(v), TOP, x(v), HEIGHT - BOTTOM))
        shapes.append(_text("tick", x(v), HEIGHT - BOTTOM + 14, brief(v), "middle"))
    center, middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    shapes.append(_text("axis", center, HEIGHT - 8, xlabel, "middle"))
    turned = _text("axis", 11, middle, ylabel, "middle")
    turned.attributes["transform"] = f"rotate(-90 11 {middle})"
    return Chart(title, (*shapes, turned, *marks))


def mark(x: float, y: float, group: int, tip: str) -> Shape:
    """A point in its group's shape and colour."""
    shape, color, r = SHAPES[group % len(SHAPES)], f"mark c{group % 6}", 4.5
    if shape == "circle":
        place = {"class": color, "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": r}
        return Shape("circle", place, title=tip)
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "triangle": [(0, -r - 1), (r + 1, r), (-r - 1, r)],
        "diamond": [(0, -r - 1.5), (r + 1.5, 0), (0, r + 1.5), (-r - 1.5, 0)],
    }[shape]
    points = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return Shape("polygon", {"class": color, "points": points}, title=tip)


def scatter(
    title: str,
    points: Sequence[Point],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    top: float | None = None,
    line: tuple[str, float] | None = None,
) -> Chart | None:
    """Points with their intervals and names, and a vertical `line` (name, x). None of no points."""
    if not points:
        return None
    xs = [v for p in points for v in (p.x, *p.xs) if v is not None and (v > 0 or not log)]
    ys = [v for p in points for v in (p.y, *p.ys) if v is not None]
    x = make_axis(xs + ([line[1]] if line else []), LEFT, WIDTH - RIGHT, log)
    y = make_axis(ys, HEIGHT - BOTTOM, TOP, top=top)
    shapes: list[Shape] = []
    if line:
        at = x(line[1])
        shapes.append(_line("reference", at, TOP, at, HEIGHT - BOTTOM))
        shapes.append(_text("tick", at + 3, HEIGHT - BOTTOM - 4, line[0]))
    for p in points:
        color, px, py = f"bar c{p.group % 6}", x(p.x), y(p.y)
        if None not in p.xs:
            shapes.append(_line(color, x(p.xs[0]), py, x(p.xs[1]), py))
        if None not in p.ys:
            shapes.append(_line(color, px, y(p.ys[0]), px, y(p.ys[1])))
    return _frame(title, x, y, xlabel, ylabel, [*shapes, *_named(points, x, y)])


def _named(points: Sequence[Point], x: Axis, y: Axis) -> list[Shape]:
    """The points and their names. Names give way downwards or upwards to names that are already
    there."""
    shapes: list[Shape] = []
    taken = [(x(p.x) - 6, x(p.x) + 6, y(p.y)) for p in points]
    for p in sorted(points, key=lambda p: -p.y):
        px, py = x(p.x), y(p.y)
        shapes.append(mark(px, py, p.group, p.tip or p.name))
        width = 5.3 * len(p.name)
        right = px + 8 + width < WIDTH - RIGHT
        start = px + 8 if right else max(LEFT, px - 8 - width)
        for shift in (-7, 11, -18, 22, -29, 33, -40, 44, 0):
            at = py + shift
            clear = all(b < start or a > start + width or abs(at - 3 - v) > 9 for a, b, v in taken)
            if clear and TOP + 6 < at < HEIGHT - BOTTOM - 2:
                break
        taken.append((start, start + width, at - 3))
        shapes.append(_text(f"name c{p.group % 6}", start, at, p.name))
    return shapes


def curves(
    title: str, series: Sequence[tuple[str, float, Sequence[float]]], xlabel: str, ylabel: str
) -> Chart | None:
    """Lines (name, steps, values at equal distances over the steps); the scale is logarithmic where
    a line spans more than 20 times. None of no values."""
    series = [(name, steps, values) for name, steps, values in series if values]
    if not series:
        return None
    every = [v for _, _, values in series for v in values]
    log = min(every) > 0 and max(every) / min(every) > 20
    x = Axis(0, max(steps for _, steps, _ in series) or 1, LEFT, WIDTH - RIGHT)
    y = make_axis(every, HEIGHT - BOTTOM, TOP, log, floor=0 if min(every) >= 0 else None)
    shapes = []
    for k, (name, steps, values) in enumerate(series):
        path = " ".join(
            f"{x((i + 0.5) * steps / len(values)):.1f},{y(v):.1f}" for i, v in enumerate(values)
        )
        look = {"class": f"line c{k % 6}", "points": path}
        dash = ("", "6 3", "2 2", "8 2 2 2")[k // 6 % 4]
        look |= {"stroke-dasharray": dash} if dash else {}
        shapes.append(Shape("polyline", look, title=name))
    return _frame(title, x, y, xlabel, ylabel, shapes)
