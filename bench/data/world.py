"""The embedded world: procedurally rendered scenes of one coloured shape on a coloured background.

A scene has five attributes (shape, colour, background, size, style) that a caption can name, and
nuisances (position, rotation, outline, shading, gradient, texture) that it cannot. Because every
pixel is drawn from known attributes, generated images can be judged against exact ground truth,
which photographs do not allow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import datasets

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


def held_out(shape: str, color: str, background: str) -> bool:
    """Whether this combination is kept out of all training (a fixed tenth of them, by checksum)."""
    return zlib.crc32(f"{shape}/{color}/{background}".encode()) % 1000 < 1000 * HELD_OUT_SHARE


@lru_cache
def combinations(held: bool) -> tuple[tuple[str, str, str], ...]:
    """All (shape, colour, background) with different colours that are, or are not, held out of
    training."""
    every = ((s, c, b) for s in SHAPES for c in COLOURS for b in BACKGROUNDS if b != c)
    return tuple(t for t in every if held_out(*t) == held)


def sample_scenes(
    n: int, rng: np.random.Generator, held: bool = False, style_share: float = STYLE_SHARE
) -> list[Scene]:
    """Draw `n` scenes uniformly from the training (or, with `held`, the held-out) combinations."""
    table = combinations(held)
    picks = rng.integers(len(table), size=n)
    sizes = rng.integers(len(SIZES), size=n)
    styled = rng.random(n) < style_share
    styles = rng.integers(1, len(STYLES), size=n) * styled
    size_names, style_names = tuple(SIZES), tuple(STYLES)
    return [
        Scene(*table[p], size_names[s], style_names[y])
        for p, s, y in zip(picks, sizes, styles, strict=True)
    ]


# ---------------------------------------------------------------------------------------- rendering
_GRID, _EXTENT = 320, 2.6  # resolution and half-width, in radii, of the cached distance fields


def _polygon(points: Sequence[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) from each (x, y) to a closed polygon."""
    distance = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - t * ex, y - ay - t * ey))
        crosses = (ay > y) != (by > y)
        inside ^= crosses & (x < ex * (y - ay) / (ey if ey else 1e-12) + ax)
    return np.where(inside, -distance, distance)


@lru_cache
def _distance_field(shape: str) -> np.ndarray:
    """Signed distance of the unit shape on a fine grid, in radii; (_GRID, _GRID), y down."""
    axis = (np.arange(_GRID) + 0.5) / _GRID * 2 * _EXTENT - _EXTENT
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)
    if shape == "circle":
        field = r - 0.95
    elif shape == "ring":
        field = np.abs(r - 0.74) - 0.25
    elif shape == "moon":
        field = np.maximum(r - 1.0, 0.82 - np.hypot(x - 0.48, y + 0.12))
    elif shape == "square":
        field = _polygon([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)], x, y)
    elif shape == "triangle":
        field = _polygon([(0.0, -1.0), (0.98, 0.78), (-0.98, 0.78)], x, y)
    elif shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 1.12, 0.46)
        field = _polygon(
            list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True)), x, y
        )
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        hx = 16 * np.sin(t) ** 3
        hy = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        field = _polygon(list(zip(hx / 16.5, hy / 16.5 - 0.08, strict=True)), x, y)
    elif shape == "cross":
        a, b = 0.34, 1.0
        corners = [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
        field = _polygon(corners, x, y)
    elif shape == "arrow":
        corners = [
            (1.1, 0.0),
            (0.18, -0.86),
            (0.18, -0.32),
            (-1.0, -0.32),
            (-1.0, 0.32),
            (0.18, 0.32),
            (0.18, 0.86),
        ]
        field = _polygon(corners, x, y)
    elif shape == "hourglass":
        corners = [
            (-0.82, -1.0),
            (0.82, -1.0),
            (0.13, 0.0),
            (0.82, 1.0),
            (-0.82, 1.0),
            (-0.13, 0.0),
        ]
        field = _polygon(corners, x, y)
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return field.astype(np.float32)


def _uniform(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> np.ndarray:
    """Draw scenes. Returns uint8 (n, 64, 64, 3), RGB. Nuisances come from `rng`, all in one
    vectorized pass."""
    n, size = len(scenes), RESOLUTION
    axis = np.arange(size, dtype=np.float32) + 0.5
    px, py = axis[None, None, :], axis[None, :, None]
    low = np.array([SIZES[s.size] for s in scenes], np.float32)
    radius = (low[:, 0] + (low[:, 1] - low[:, 0]) * rng.random(n, np.float32))[:, None, None]
    margin = radius * 1.08 + 1.0
    cx = margin + (size - 2 * margin) * rng.random((n, 1, 1), np.float32)
    cy = margin + (size - 2 * margin) * rng.random((n, 1, 1), np.float32)
    angle = _uniform(rng, n, -0.26, 0.26)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    dx, dy = px - cx, py - cy
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    scale = _GRID / (2 * _EXTENT)
    column = np.clip((u + _EXTENT) * scale, 0, _GRID - 1).astype(np.int32)
    row = np.clip((v + _EXTENT) * scale, 0, _GRID - 1).astype(np.int32)
    fields = np.stack([_distance_field(s) for s in SHAPES]).reshape(-1)
    which = np.array([SHAPES.index(s.shape) for s in scenes], np.int32)[:, None, None]
    distance = fields[(which * _GRID + row) * _GRID + column] * radius  # pixels

    # background: jittered colour, linear gradient, one of four faint textures
    def palette(table: dict, names: list[str]) -> np.ndarray:
        rgb = np.array([table[name] for name in names], np.float32)[:, None, None, :]
        return rgb + rng.normal(0, 4, rgb.shape).astype(np.float32)

    back = palette(BACKGROUNDS, [s.background for s in scenes])
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
    shade = light[..., None] * back + (kind == 3)[..., None] * rng.normal(
        0, 2, (n, size, size, 1)
    ).astype(np.float32)

    # object: jittered colour, shading towards a light, outline of a third of the objects
    fill = palette(COLOURS, [s.color for s in scenes])
    tilt = _uniform(rng, n, 0, 2 * np.pi)
    shading = 1 + _uniform(rng, n, 0.0, 0.16) * (np.cos(tilt) * dx + np.sin(tilt) * dy) / radius
    body = shading[..., None] * fill
    outlined = rng.random((n, 1, 1)) < 0.35
    tone = np.where(rng.random((n, 1, 1, 1)) < 0.7, 24.0, 240.0).astype(np.float32)
    edge = np.clip(distance + _uniform(rng, n, 1.2, 2.0) + 0.5, 0, 1) * outlined
    body += edge[..., None] * (tone - body)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    image = shade + cover * (body - shade)
    styles = np.array([s.style for s in scenes])
    for style in set(styles.tolist()) - {""}:
        image[styles == style] = apply_style(image[styles == style], style)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def apply_style(image: np.ndarray, style: str) -> np.ndarray:
    """Redraw images in a style. `image` is float32 (n, H, W, 3) in 0..255; so is the result. Also
    defined: "posterize"."""
    if style == "":
        return image
    gray = image @ np.array([0.299, 0.587, 0.114], np.float32)
    if style == "black and white":
        return np.repeat(gray[..., None], 3, -1)
    if style == "sepia":
        return np.clip(
            gray[..., None] * np.array([1.07, 0.86, 0.62], np.float32)
            + np.array([14, 8, 2], np.float32),
            0,
            255,
        )
    if style == "negative":
        return 255 - image
    if style == "posterize":
        return np.round(np.clip(image, 0, 255) / 127.5) * 127.5
    if style == "pencil sketch":
        gx = np.diff(image, axis=2, append=image[:, :, -1:])
        gy = np.diff(image, axis=1, append=image[:, -1:])
        edges = np.sqrt((gx**2 + gy**2).sum(-1))
        thick = np.maximum(edges, np.roll(edges, 1, 2))
        paper = 236 + 0.05 * (gray - 128)
        return np.repeat(
            np.clip(paper - 1.5 * np.maximum(thick - 26, 0), 40, 255)[..., None], 3, -1
        )
    if style == "pixel art":
        n, h, w, c = image.shape
        block = max(1, h // 16)
        small = image.reshape(n, h // block, block, w // block, block, c).mean((2, 4))
        small = np.round(np.clip(small, 0, 255) / 51) * 51
        return np.repeat(np.repeat(small, block, 1), block, 2)
    raise ValueError(
        f"unknown style {style!r}; known: {', '.join(s for s in STYLES if s)}, posterize"
    )


# ----------------------------------------------------------------------------------------- captions
_OBJECTS = (
    "a {size} {color} {shape}",
    "a {color} {shape}",
    "one {size} {color} {shape}",
    "a {color} {size} {shape}",
)
_FRAMES = (
    "{obj} on a {bg} background",
    "{obj} on a {bg} background",
    "{obj} in front of a {bg} background",
    "{obj} over a {bg} background",
    "{obj}, {bg} background",
    "a {bg} background with {obj}",
    "there is {obj} on a {bg} background",
)
_LEADS = ("a picture of", "an image of", "a drawing of", "look at", "this is", "here we see")
_TAILS = (
    "today",
    "please",
    "in high quality",
    "very nice",
    "as requested",
    "for my sister",
    "seen from the front",
    "with care",
)
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "abcdefghijklmnopqrstuvwxyz",
    "abcdefghijklmnopqrstuvwxyz0123456789",
)
_INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060")
_LOOKALIKE = str.maketrans("aeocpxyi", "аеосрхуі")  # Cyrillic


def rare_string(rng: np.random.Generator) -> str:
    """A string that names nothing: a made-up word, a few of them, zero-width characters, or any
    printable Unicode."""
    kind = rng.random()
    if kind < 0.62:
        words = []
        for _ in range(1 if rng.random() < 0.75 else 2):
            letters = _ALPHABETS[rng.integers(len(_ALPHABETS))]
            words.append(
                "".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(2, 9)))
            )
        return " ".join(words)
    if kind < 0.75:
        return _INVISIBLE[rng.integers(len(_INVISIBLE))] * int(rng.integers(1, 3))
    count = int(rng.integers(1, 4))
    ranges = (
        (0x3B1, 0x3C9),
        (0x430, 0x44F),
        (0x4E00, 0x9FA5),
        (0x3041, 0x3096),
        (0x1F300, 0x1F5FF),
        (0x21, 0x2F),
        (0x2200, 0x22FF),
    )
    low, high = ranges[rng.integers(len(ranges))]
    return "".join(chr(int(c)) for c in rng.integers(low, high, size=count))


def insert(text: str, piece: str, place: str, rng: np.random.Generator | None = None) -> str:
    """Put `piece` into `text` as "prefix", "suffix" or "inside" (after a word: the middle one, or a
    random one with `rng`)."""
    if place == "prefix":
        return f"{piece} {text}"
    if place == "suffix":
        return f"{text} {piece}"
    words = text.split(" ")
    cut = len(words) // 2 if rng is None else int(rng.integers(1, max(2, len(words))))
    return " ".join([*words[:cut], piece, *words[cut:]])


def caption(
    scene: Scene, rng: np.random.Generator, rare_share: float = 0.0, plain: bool = False
) -> str:
    """Describe a scene. `plain` gives one fixed template; otherwise templates, fillers and, in a
    share, random rare strings vary."""
    if plain:
        obj, frame = _OBJECTS[0], _FRAMES[0]
    else:
        obj, frame = _OBJECTS[rng.integers(len(_OBJECTS))], _FRAMES[rng.integers(len(_FRAMES))]
    text = frame.format(
        obj=obj.format(size=scene.size, color=scene.color, shape=scene.shape), bg=scene.background
    )
    text = text.replace("a orange", "an orange")
    if scene.style:
        text = f"{STYLES[scene.style]} {text}"
    elif not plain and rng.random() < 0.3:
        text = f"{_LEADS[rng.integers(len(_LEADS))]} {text}"
    if not plain and rng.random() < 0.2:
        text = f"{text} {_TAILS[rng.integers(len(_TAILS))]}"
    if rare_share and rng.random() < rare_share:
        piece = rare_string(rng)
        if rng.random() < 0.25:  # a homoglyph inside a word that says nothing about the scene
            text = text.replace("background", "background".translate(_LOOKALIKE), 1)
        else:
            text = insert(
                text, piece, ("prefix", "prefix", "suffix", "inside")[rng.integers(4)], rng
            )
    return text


def dataset(
    n: int,
    seed: int,
    held: bool = False,
    rare_share: float = 0.0,
    style_share: float = STYLE_SHARE,
    plain: bool = False,
) -> datasets.Dataset:
    """The world as a HF `datasets.Dataset` with columns image, text, shape, color, background,
    size, style."""
    import datasets

    def rows(start: Sequence[int]) -> Iterator[dict]:
        for first in start:
            rng = np.random.default_rng([seed, first])
            scenes = sample_scenes(min(256, n - first), rng, held, style_share)
            for scene, image in zip(scenes, render(scenes, rng), strict=True):
                yield {
                    "image": image,
                    "text": caption(scene, rng, rare_share, plain),
                    **scene._asdict(),
                }

    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string")}
        | {f: datasets.Value("string") for f in Scene._fields}
    )
    return datasets.Dataset.from_generator(
        rows, gen_kwargs={"start": list(range(0, n, 256))}, features=features
    )
