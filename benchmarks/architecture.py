"""Draw docs/rooms.svg (the rooms of the code and their imports, read from the files) and
docs/cell.svg (a cell's way).

python benchmarks/architecture.py
"""

from __future__ import annotations

import ast
import html
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = "t2i_backdoor_bench"
METHODS = ("attacks", "defenses", "metrics")
JOIN = "command, api, docs"  # the modules that join running and report
PLACES = {  # row, and share of the width: each room stands above all that it imports
    JOIN: (0, 0.74),
    "shapes": (1, 0.10),
    ", ".join(METHODS): (1, 0.38),
    "running": (1, 0.66),
    "report": (1, 0.90),
    "scoring": (2, 0.14),
    "attacking": (2, 0.40),
    "detecting": (2, 0.60),
    "targets": (3, 0.20),
    "training": (3, 0.45),
    "data": (4, 0.12),
    "models": (4, 0.36),
    "stats": (4, 0.64),
    "store": (4, 0.90),
    "contract": (5, 0.50),
}
# Each stage of a cell: its title, the file and the function that make it, its inputs, its place.
STAGES = (
    (
        "attacked model",
        "attacked.py",
        "attacked",
        "base model, attack,\nits training data",
        "models/",
    ),
    ("defended model", "defended.py", "defended", "defense, and what\nits needs name", "in memory"),
    ("pictures", "pictures.py", "pictures", "prompts and noise,\nboth from the seed", "samples/"),
    ("scores", "scores.py", "scores_of", "judge, metrics,\nclean pictures", "in memory"),
    ("record", "cell.py", "make_cell", "scores, cost, and\nwhere they come from", "cells/"),
)
FONT = 'font-family="Helvetica, Arial, sans-serif"'
Graph = dict[str, set[str]]


# ---------------------------------------------------------------------------------------- imports
def room_of(path: Path) -> str:
    """The room of a source file, or the modules of `JOIN` as one."""
    parts = path.relative_to(ROOT).parts
    if parts[0] in METHODS:
        return ", ".join(METHODS)
    return parts[1] if len(parts) > 2 else JOIN


def rooms() -> Graph:
    """The rooms that the files of each room import, `TYPE_CHECKING` included."""
    found: Graph = {}
    folders = ("bench", *METHODS)
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        if path.parent == ROOT / "bench" and path.stem not in JOIN.split(", "):
            continue
        into = found.setdefault(room_of(path), set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE + "."):
                name = node.module.split(".")[1]
                if (ROOT / "bench" / name).is_dir():
                    into.add(name)
    return {room: others - {room} for room, others in found.items()}


def reduced(graph: Graph) -> Graph:
    """Without the imports that a longer way in the graph shows as well."""

    def reached(room: str) -> set[str]:
        return {room}.union(*(reached(other) for other in graph[room]))

    return {
        room: {o for o in others if not any(o in reached(p) for p in others - {o})}
        for room, others in graph.items()
    }


# ---------------------------------------------------------------------------------------- drawing
@dataclass
class Box:
    x: float  # of the middle
    y: float
    width: float
    height: float = 40

    def draw(self, text: str, fill: str) -> str:
        left, top = self.x - self.width / 2, self.y - self.height / 2
        size = f'width="{self.width:.0f}" height="{self.height:.0f}"'
        rect = f'<rect x="{left:.0f}" y="{top:.0f}" {size} rx="6" fill="{fill}" stroke="#345"/>'
        return rect + words(self.x, self.y + 6, text, 17)


def words(x: float, y: float, text: str, size: int, color: str = "#123") -> str:
    """Centred lines of text."""
    return "".join(
        f'<text x="{x:.0f}" y="{y + i * 1.3 * size:.0f}" font-size="{size}" text-anchor="middle"'
        f' fill="{color}" {FONT}>{html.escape(line)}</text>'
        for i, line in enumerate(text.split("\n"))
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="#678"'
        ' stroke-width="1.5" marker-end="url(#tip)"/>'
    )


def picture(width: int, height: int, parts: list[str]) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#678"/></marker></defs>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    size = f' width="{width}" height="{height}">'
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head + size, tip, ground, *parts, "</svg>"]) + "\n"


def draw_rooms(graph: Graph) -> str:
    """The rooms, an arrow from each to what it imports; what a longer way shows is left out."""
    shown, width = reduced(graph), 940
    boxes = {
        room: Box(width * across, 40 + 92 * row, 34 + 9 * len(room))
        for room in graph
        for row, across in [PLACES[room]]
    }
    lines = [
        arrow(a.x, a.y + 20, b.x, b.y - 20)
        for room in graph
        for other in sorted(shown[room])
        for a, b in [(boxes[room], boxes[other])]
    ]
    fills = {JOIN: "#fde9c8", ", ".join(METHODS): "#d9ecd9"}
    drawn = [box.draw(room, fills.get(room, "#dfe9f5")) for room, box in boxes.items()]
    return picture(width, 540, lines + drawn)


def draw_cell() -> str:
    """A cell's way: its stages, what each is given, and where its result is kept."""
    wide, step, y = 146, 176, 130
    parts = [Box(60, y, 76, 50).draw("cell", "#fde9c8")]
    for i, (title, file, function, given, place) in enumerate(STAGES):
        x = 60 + step * i + 150
        parts += [
            arrow(98 if i == 0 else x - step + wide / 2, y, x - wide / 2, y),
            Box(x, y, wide, 50).draw(title, "#dfe9f5"),
            words(x, y - 88, given, 14, "#555"),
            arrow(x, y - 58, x, y - 25),
            words(x, y + 48, f"{function}()\nrunning/{file}", 14),
            words(x, y + 92, f"kept: {place}", 14, "#555"),
        ]
    return picture(60 + step * len(STAGES) + 60, 245, parts)


def pictures() -> dict[Path, str]:
    return {DOCS / "rooms.svg": draw_rooms(rooms()), DOCS / "cell.svg": draw_cell()}


if __name__ == "__main__":
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
