"""Charts as values that `chart.html` writes as inline SVG: they take their colours from the page,
stay sharp, and are read out by their title."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2i_backdoor_bench.report.figures.labels import Box, Line, joined, placed

WIDTH, HEIGHT = 380, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42
UNIT = 1.7  # of these units for one of those in which labels are placed
Labels = tuple[str, str]  # of the axes, across and up
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
    """A point with the label beside it, its intervals (None: none), the number of its group (colour
    and shape), and the sentence that a pointer shows."""

    label: str
    x: float
    y: float
    xs: tuple[float | None, float | None] = (None, None)
    ys: tuple[float | None, float | None] = (None, None)
    group: int = 0
    tip: str = ""


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] to pixels [start, end]: evenly, by the logarithm, or (`even`) evenly within
    that distance from 0 and by the logarithm of the distance beyond (asinh)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    even: float = 0

    def _place(self, value: float) -> float:
        if self.log:
            return math.log10(value)
        return math.asinh(value / self.even) if self.even else value

    def __call__(self, value: float) -> float:
        low, high, v = map(self._place, (self.low, self.high, max(value, self.low)))
        return self.start + (min(max(v, low), high) - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the axis."""
        if self.log:
            found = [m * 10**k for k in range(*self._decades(self.low)) for m in (1, 2, 5)]
            found = [v for v in found if self.low * 0.999 <= v <= self.high * 1.001]
            tens = [v for v in found if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]
            return (
                tens
                if len(found) > most and len(tens) > 1
                else found[:: max(1, -(-len(found) // most))]
            )
        if self.even:
            ends = [m * 10**k for k in range(*self._decades(self.even)) for m in (1, 2, 5)]
            found = [sign * v for sign in (-1, 1) for v in ends if v >= self.even]
            return sorted(v for v in (0, *found) if self.low <= v <= self.high)
        step = (self.high - self.low) / most
        unit = 10 ** math.floor(math.log10(step))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= step)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _decades(self, low: float) -> tuple[int, int]:
        high = max(abs(self.low), abs(self.high))
        return math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1


def make_axis(
    values: Sequence[float],
    start: float,
    end: float,
    log: bool = False,
    floor: float | None = None,
    top: float | None = None,
    even: float = 0,
) -> Axis:
    """An axis that holds the values with some room; `floor` and `top` are never passed."""
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.4, high * 1.4, start, end, True)
    if even:
        least, most = low - even, high * 1.3 if high > even else high + even
        return Axis(least, most, start, end, even=even)
    room = 0.08 * (high - low) or abs(high) * 0.05 or 0.5
    low, high = low - room, high + room
    low = max(low, floor) if floor is not None else low
    high = min(high, top) if top is not None else high
    return Axis(low, high if high > low else low + 1, start, end)


def brief(value: float) -> str:
    """A tick's label."""
    value = 0.0 if abs(value) < 1e-12 else value
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.0e}"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Shape:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return Shape("line", {"class": kind} | {k: f"{v:.1f}" for k, v in ends.items()})


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> Shape:
    place = {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}"}
    return Shape("text", place | ({} if anchor == "start" else {"text-anchor": anchor}), text)


def _frame(
    title: str,
    x: Axis,
    y: Axis,
    xlabel: str,
    ylabel: str,
    marks: Sequence[Shape],
    names: Mapping[float, str] | None = None,
) -> Chart:
    """Axes, grid and labels around the marks. `names` are the ticks across, where they are no round
    numbers."""
    shapes = []
    for v in y.ticks():
        shapes.append(_line("grid", LEFT, y(v), WIDTH - RIGHT, y(v)))
        shapes.append(_text("tick", LEFT - 5, y(v) + 3.5, brief(v), "end"))
    for v, name in (names or {v: brief(v) for v in x.ticks()}).items():
        shapes.append(_line("grid", x(v), TOP, x(v), HEIGHT - BOTTOM))
        shapes.append(_text("tick", x(v), HEIGHT - BOTTOM + 14, name, "middle"))
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


def sample(title: str, group: int) -> Chart:
    """The mark of a group, for a key."""
    return Chart(title, (mark(8, 8, group, title),), 16, 16)


def scatter(
    title: str,
    points: Sequence[Point],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    top: float | None = None,
    line: tuple[str, float] | None = None,
    even: float = 0,
) -> Chart | None:
    """Points with their intervals and labels, and a vertical `line` (name, x). None of no
    points."""
    if not points:
        return None
    xs = [v for p in points for v in (p.x, *p.xs) if v is not None and (v > 0 or not log)]
    ys = [v for p in points for v in (p.y, *p.ys) if v is not None]
    xs += [line[1]] if line else []
    x = make_axis(xs, LEFT, WIDTH - RIGHT, log, even=even)
    y = make_axis(ys, HEIGHT - BOTTOM, TOP, top=top)
    shapes: list[Shape] = []
    if line:
        at = x(line[1])
        shapes.append(_line("reference", at, TOP, at, HEIGHT - BOTTOM))
        shapes.append(_text("tick", at + 3, HEIGHT - BOTTOM - 4, line[0]))
    bars: list[Line] = []
    for p in points:
        color, px, py = f"bar c{p.group % 6}", x(p.x), y(p.y)
        own = [((x(p.xs[0]), py), (x(p.xs[1]), py))] if None not in p.xs else []
        own += [((px, y(p.ys[0])), (px, y(p.ys[1])))] if None not in p.ys else []
        shapes += [_line(color, *one, *two) for one, two in own]
        bars += own
    return _frame(title, x, y, xlabel, ylabel, [*shapes, *_labelled(points, x, y, bars)])


def _labelled(points: Sequence[Point], x: Axis, y: Axis, bars: Sequence[Line]) -> list[Shape]:
    """The points, and their labels where they cover neither each other nor a point: joined by a
    line to a point that is not right beside."""
    frame = Box(LEFT / UNIT, TOP / UNIT, (WIDTH - RIGHT) / UNIT, (HEIGHT - BOTTOM) / UNIT)
    at = {p.label: (x(p.x) / UNIT, y(p.y) / UNIT) for p in points}
    sizes = {label: ((6.2 * len(label) + 2) / UNIT, 11 / UNIT) for label in at}
    lines = [tuple((a / UNIT, b / UNIT) for a, b in bar) for bar in bars]
    shapes = [mark(x(p.x), y(p.y), p.group, p.tip or p.label) for p in points]
    for label, (a, b) in placed(at, sizes, frame, lines).items():
        if joined(label, at, (a, b)):
            (px, py), far = at[label], math.hypot(at[label][0] - a, at[label][1] - b)
            stop = min(1.0, sizes[label][1] / 2 / far)  # at the label's edge
            ends = (px, py, a + stop * (px - a), b + stop * (py - b))
            shapes.append(_line("lead", *(UNIT * v for v in ends)))
        text = _text("name", UNIT * a, UNIT * b + 3.5, label, "middle")
        shapes.append(text)
    return shapes


def curves(
    title: str, lines: Sequence[Sequence[Point]], labels: Labels, names: Mapping[float, str]
) -> Chart:
    """Lines through their points, with intervals up and down. Lines stand a little beside each
    other, so that none covers another's intervals. `names`: the ticks across, by place."""
    points = [p for line in lines for p in line]
    x = make_axis([*names], LEFT, WIDTH - RIGHT)
    ends = [v for p in points for v in (p.y, *p.ys) if v is not None]
    y = make_axis(ends, HEIGHT - BOTTOM, TOP)
    paths, bars, marks = [], [], []
    for i, line in enumerate(lines):
        beside = 3.5 * (i - (len(lines) - 1) / 2)
        at = [(x(p.x) + beside, y(p.y)) for p in line]
        color, path = f"c{line[0].group % 6}", " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        paths.append(Shape("polyline", {"class": f"line {color}", "points": path}))
        for p, (a, b) in zip(line, at, strict=True):
            bars += (
                [_line(f"bar {color}", a, y(p.ys[0]), a, y(p.ys[1]))] if None not in p.ys else []
            )
            marks.append(mark(a, b, p.group, p.tip))
    kept: dict[float, str] = {}
    for place, name in sorted(names.items()):  # a name that would touch the one before is left out
        if not kept or x(place) - x(max(kept)) > 4 * (len(name) + len(kept[max(kept)])):
            kept[place] = name
    return _frame(title, x, y, *labels, [*paths, *bars, *marks], kept)


def bands(
    title: str, x: Sequence[float], rows: Sequence[Sequence[float]], group: int, labels: Labels
) -> Chart:
    """The median of many curves in bands: `rows` are the least, lower quartile, median, upper
    quartile and most at each of the places `x` in 0..1. The scale is logarithmic where they span
    more than 10 times."""
    low, lower, middle, upper, high = rows
    log = min(low) > 0 and max(high) / min(low) > 10
    across = Axis(0, 1, LEFT, WIDTH - RIGHT)
    up = make_axis([*low, *high], HEIGHT - BOTTOM, TOP, log, floor=0 if min(low) >= 0 else None)

    def path(values: Sequence[float], back: Sequence[float] = ()) -> str:
        there = [(across(a), up(v)) for a, v in zip(x, values, strict=True)]
        again = [(across(a), up(v)) for a, v in zip(x, back, strict=True)] if len(back) else []
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in [*there, *reversed(again)])

    color = f"c{group}"
    shapes = [
        Shape("polygon", {"class": f"band {color}", "points": path(high, low)}),
        Shape("polygon", {"class": f"band {color}", "points": path(upper, lower)}),
        Shape("polyline", {"class": f"line {color}", "points": path(middle)}, title=title),
    ]
    return _frame(title, across, up, *labels, shapes)
