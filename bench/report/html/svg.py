"""Charts as inline SVG: they take their colours from the page, stay sharp, and are read out by
their title. Text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42
SHAPES = ("circle", "square", "triangle", "diamond")


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


def frame(title: str, x: Axis, y: Axis, xlabel: str, ylabel: str, body: Sequence[str]) -> str:
    """Axes, grid and labels around the marks."""
    lines = []
    for v in y.ticks():
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        )
        lines.append(
            f'<text class="tick" x="{LEFT - 5}" y="{y(v) + 3.5:.1f}"'
            f' text-anchor="end">{brief(v)}</text>'
        )
    for v in x.ticks():
        lines.append(
            f'<line class="grid" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="{x(v):.1f}"'
            f' x2="{x(v):.1f}"/>'
        )
        lines.append(
            f'<text class="tick" x="{x(v):.1f}" y="{HEIGHT - BOTTOM + 14}"'
            f' text-anchor="middle">{brief(v)}</text>'
        )
    lines.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}"'
        f' text-anchor="middle">{escape(xlabel)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 11 {middle})"'
    lines.append(
        f'<text class="axis" x="11" y="{middle}" text-anchor="middle"'
        f" {turned}>{escape(ylabel)}</text>"
    )
    inside = "".join([*lines, *body])
    start = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(title)}">'
    )
    return f"{start}<title>{escape(title)}</title>{inside}</svg>"


def mark(x: float, y: float, group: int, tip: str) -> str:
    """A point in its group's shape and colour."""
    shape, color, r = SHAPES[group % len(SHAPES)], f"c{group % 6}", 4.5
    if shape == "circle":
        drawn = f'<circle class="mark {color}" cx="{x:.1f}" cy="{y:.1f}" r="{r}">'
    else:
        corners = {
            "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
            "triangle": [(0, -r - 1), (r + 1, r), (-r - 1, r)],
            "diamond": [(0, -r - 1.5), (r + 1.5, 0), (0, r + 1.5), (-r - 1.5, 0)],
        }[shape]
        drawn = (
            f'<polygon class="mark {color}"'
            f' points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}">'
        )
    return f"{drawn}<title>{escape(tip)}</title></{drawn[1 : drawn.index(' ')]}>"


def scatter(
    title: str,
    points: Sequence[Point],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    top: float | None = None,
    line: tuple[str, float] | None = None,
) -> str:
    """Points with their intervals and names, and a vertical `line` (name, x). Names give way
    downwards or upwards to names that are already there."""
    if not points:
        return ""
    xs = [v for p in points for v in (p.x, *p.xs) if v is not None and (v > 0 or not log)] + (
        [line[1]] if line else []
    )
    x = make_axis(xs, LEFT, WIDTH - RIGHT, log)
    y = make_axis(
        [v for p in points for v in (p.y, *p.ys) if v is not None], HEIGHT - BOTTOM, TOP, top=top
    )
    body: list[str] = []
    if line:
        body.append(
            f'<line class="reference" x1="{x(line[1]):.1f}" x2="{x(line[1]):.1f}" y1="{TOP}"'
            f' y2="{HEIGHT - BOTTOM}"/>'
        )
        body.append(
            f'<text class="tick" x="{x(line[1]) + 3:.1f}"'
            f' y="{HEIGHT - BOTTOM - 4}">{escape(line[0])}</text>'
        )
    taken = [(x(p.x) - 6, x(p.x) + 6, y(p.y)) for p in points]
    for p in points:
        color = f"c{p.group % 6}"
        px, py = x(p.x), y(p.y)
        if None not in p.xs:
            body.append(
                f'<line class="bar {color}" x1="{x(p.xs[0]):.1f}" x2="{x(p.xs[1]):.1f}"'
                f' y1="{py:.1f}" y2="{py:.1f}"/>'
            )
        if None not in p.ys:
            body.append(
                f'<line class="bar {color}" y1="{y(p.ys[0]):.1f}" y2="{y(p.ys[1]):.1f}"'
                f' x1="{px:.1f}" x2="{px:.1f}"/>'
            )
    for p in sorted(points, key=lambda p: -p.y):
        px, py = x(p.x), y(p.y)
        body.append(mark(px, py, p.group, p.tip or p.name))
        width = 5.3 * len(p.name)
        right = px + 8 + width < WIDTH - RIGHT
        start = px + 8 if right else max(LEFT, px - 8 - width)
        for shift in (-7, 11, -18, 22, -29, 33, -40, 44, 0):
            at = py + shift
            clear = all(b < start or a > start + width or abs(at - 3 - v) > 9 for a, b, v in taken)
            if clear and TOP + 6 < at < HEIGHT - BOTTOM - 2:
                break
        taken.append((start, start + width, at - 3))
        body.append(
            f'<text class="name c{p.group % 6}" x="{start:.1f}"'
            f' y="{at:.1f}">{escape(p.name)}</text>'
        )
    return frame(title, x, y, xlabel, ylabel, body)


def curves(
    title: str, series: Sequence[tuple[str, float, Sequence[float]]], xlabel: str, ylabel: str
) -> str:
    """Lines (name, steps, values at equal distances over the steps); the scale is logarithmic where
    a line spans more than 20 times."""
    series = [(name, steps, values) for name, steps, values in series if values]
    if not series:
        return ""
    every = [v for _, _, values in series for v in values]
    log = min(every) > 0 and max(every) / min(every) > 20
    x = Axis(0, max(steps for _, steps, _ in series) or 1, LEFT, WIDTH - RIGHT)
    y = make_axis(every, HEIGHT - BOTTOM, TOP, log, floor=0 if min(every) >= 0 else None)
    body = []
    for k, (name, steps, values) in enumerate(series):
        path = " ".join(
            f"{x((i + 0.5) * steps / len(values)):.1f},{y(v):.1f}" for i, v in enumerate(values)
        )
        dash = ("", "6 3", "2 2", "8 2 2 2")[k // 6 % 4]
        body.append(
            f'<polyline class="line c{k % 6}" stroke-dasharray="{dash}"'
            f' points="{path}"><title>{escape(name)}</title></polyline>'
        )
    return frame(title, x, y, xlabel, ylabel, body)
