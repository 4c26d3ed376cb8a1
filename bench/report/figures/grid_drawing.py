"""How the picture of a run is drawn: tiles in the colour of their verdict, names, and a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.figures.blocks import Block
from t2i_backdoor_bench.report.figures.verdicts import ALL, REFUSED, Verdict

TILE = 128  # pixels of a picture's side in the grid
FRAME, STRIP = 4, 20  # around a picture, and below it for the words of its verdict
GAP = 8  # between frames
WORDS = 14  # size of the letters in a strip
PLAIN = "#9a9a9a"  # of pictures that no judge looked at
# a page is 6.9 inches wide: letters of so many pixels for each pixel of the grid's width are 6 pt
SIX_POINTS, SMALLEST, LARGEST = 6 / 72 / 6.9, 14, 26
STEP, TALL = TILE + 2 * FRAME + GAP, TILE + 2 * FRAME + STRIP + GAP


def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: it has the letters of most scripts, and triggers use
    them."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def tile(picture: np.ndarray) -> Image.Image:
    """A picture at the grid's size: small ones by whole pixels, so that nothing is smoothed; large
    ones by area."""
    image = Image.fromarray(picture)
    small = picture.shape[0] <= TILE
    return image.resize(
        (TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    )


def fit(text: str, letters: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of it as is `width` pixels wide."""
    text = visible(text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrap(text: str, letters: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels, broken at spaces, brackets, plus
    signs and underscores, or else where a word does not fit."""
    lines, rest = [], visible(text)
    while rest and len(lines) < most - 1 and letters.getlength(rest) > width:
        many = next(
            k for k in range(len(rest), 0, -1) if k == 1 or letters.getlength(rest[:k]) <= width
        )
        cut = max(
            *(rest.rfind(sign, 0, many + 1) for sign in " ["),
            *(rest.rfind(sign, 0, many) + 1 for sign in "+_"),
        )
        cut = cut if cut > 0 else many
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*lines, fit(rest, letters, width)] if rest else lines


@dataclass
class Canvas:
    """What is drawn on, with letters of one size. It is cut to its height at the end."""

    width: int
    height: int
    size: int

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.letters, self.words = font(self.size), font(WORDS)
        self.line = round(1.25 * self.size)

    def text(self, x: float, y: float, text: str, fill: str = "black", anchor: str = "la") -> None:
        self.pen.text((x, y), text, fill=fill, font=self.letters, anchor=anchor)

    def turned(self, x: int, low: int, text: str, fill: str) -> None:
        """A text that runs upwards from (x, low)."""
        long = int(self.letters.getlength(text)) + 2
        strip = Image.new("RGB", (long, self.line), "white")
        pen = ImageDraw.Draw(strip)
        pen.text((0, self.line / 2), text, fill=fill, font=self.letters, anchor="lm")
        turned = strip.rotate(90, expand=True)
        self.image.paste(turned, (x, low - turned.height))

    def tile(self, x: int, y: int, picture: np.ndarray | None, found: Verdict | None) -> None:
        """A picture in the frame of its verdict, with its sign and words below it."""
        color = found.color if found else PLAIN
        right, low = x + TILE + 2 * FRAME - 1, y + TILE + 2 * FRAME + STRIP - 1
        if picture is None:
            self.pen.rectangle((x, y, right, low - STRIP), outline="#cccccc")
            return
        self.pen.rectangle((x, y, right, low if found else low - STRIP), fill=color)
        if found is REFUSED:  # a model that refuses stores a black picture
            at = (x + FRAME, y + FRAME, x + FRAME + TILE - 1, y + FRAME + TILE - 1)
            self.pen.rectangle(at, fill="#eeeeee")
            middle = (x + FRAME + TILE / 2, y + FRAME + TILE / 2)
            self.pen.text(middle, REFUSED.words, fill=color, font=font(22), anchor="mm")
        else:
            self.image.paste(tile(picture), (x + FRAME, y + FRAME))
        if found:
            middle, text = (x + right) / 2, f"{found.sign} {found.words}"
            at = (middle, low - STRIP / 2)
            self.pen.text(at, text, fill="white", font=self.words, anchor="mm")

    def key(self, y: int, used: set[Verdict]) -> int:
        """What the colours and signs mean, one line each; where it ends."""
        for found in (v for v in ALL if v in used):
            side = round(1.2 * self.size)
            self.pen.rectangle((GAP, y, GAP + side, y + side), fill=found.color)
            middle = (GAP + side / 2, y + side / 2)
            self.pen.text(middle, found.sign, fill="white", font=self.letters, anchor="mm")
            room = self.width - side - 3 * GAP
            for line in wrap(f"{found.words}: {found.about}", self.letters, room, 3):
                self.text(GAP + side + GAP, y + side / 2, line, anchor="lm")
                y += self.line
            y += GAP // 2
        return y + GAP

    def done(self, height: int) -> Image.Image:
        return self.image.crop((0, 0, self.width, height))


def letters_for(width: float) -> int:
    return round(min(max(SIX_POINTS * width, SMALLEST), LARGEST))


def used(blocks: Sequence[Block], many: int | None = None) -> set[Verdict]:
    """The verdicts that are seen, on the first `many` pictures of each model."""
    return {v for b in blocks for found in b.verdicts.values() for v in found[:many] if v}


def draw(columns: Sequence[str], blocks: Sequence[Block]) -> Image.Image:
    """The grid: one block an attack, one row a prompt with the clean prompt above it, one column a
    model."""
    width = GAP + STEP * len(columns)
    size = letters_for(width)
    names = [wrap(name, font(size), STEP - GAP, 4) for name in columns]
    rows = [max(map(len, b.pictures.values())) for b in blocks]
    tall = sum(3 * size + k * (TALL + 4 * size) for k in rows) + 30 * size
    canvas = Canvas(width, tall + 6 * size, size)
    y = GAP + canvas.line * max(map(len, names))
    for j, lines in enumerate(names):
        for k, line in enumerate(lines):
            at = (GAP + j * STEP + (STEP - GAP) / 2, y - canvas.line * (len(lines) - k - 0.5))
            canvas.text(*at, line, anchor="mm")
    for b, many in zip(blocks, rows, strict=True):
        canvas.pen.line((GAP, y + 4, width - GAP, y + 4), fill="#999999")
        title = fit(f"{b.attack}: triggered prompts, same noise", canvas.letters, width - 2 * GAP)
        canvas.text(GAP, y + 8, title, "#202080")
        y += 10 + canvas.line
        for i in range(many):
            for line in wrap("".join(b.prompts[i : i + 1]), canvas.letters, width - 2 * GAP, 2):
                canvas.text(GAP, y, line, "#404040")
                y += canvas.line
            y += 3
            for j, name in enumerate(columns):
                pictures = b.pictures.get(name, ())
                picture = pictures[i] if i < len(pictures) else None
                canvas.tile(GAP + j * STEP, y, picture, b.verdict(name, i))
            y += TALL
    return canvas.done(canvas.key(y, used(blocks)))


def draw_crossed(models: Sequence[str], blocks: Sequence[Block]) -> Image.Image:
    """The grid of many models, or of many attacks and no defense: one row a model, one column an
    attack and its first prompt; the prompts stand below."""
    size = letters_for(STEP * len(blocks) + 14 * SMALLEST)
    letters = font(size)
    names = [wrap(m, letters, 14 * size, 4) for m in models]
    left = int(max(letters.getlength(line) for lines in names for line in lines)) + 2 * GAP
    width = max(left + STEP * len(blocks), 30 * size)
    longest = max(letters.getlength(visible(b.attack)) for b in blocks)
    turn = longest > STEP - GAP
    top = GAP + (int(min(longest, 20 * size)) + 4 if turn else round(1.25 * size)) + GAP
    canvas = Canvas(width, top + TALL * len(models) + (8 * len(blocks) + 30) * size, size)
    for j, b in enumerate(blocks):
        x, name = left + j * STEP, fit(b.attack, letters, 20 * size)
        if turn:
            canvas.turned(x + (STEP - GAP - canvas.line) // 2, top - GAP, name, "#202080")
        else:
            canvas.text(x, top - GAP, name, "#202080", anchor="ls")
    for i, (model, lines) in enumerate(zip(models, names, strict=True)):
        middle = top + i * TALL + TILE / 2 + FRAME
        for k, line in enumerate(lines):
            canvas.text(GAP, middle + canvas.line * (k - (len(lines) - 1) / 2), line, anchor="lm")
        for j, b in enumerate(blocks):
            found = b.pictures.get(model, ())
            picture = found[0] if len(found) else None
            canvas.tile(left + j * STEP, top + i * TALL, picture, b.verdict(model, 0))
    y = _prompts(canvas, top + TALL * len(models), blocks)
    return canvas.done(canvas.key(y, used(blocks, 1)))


def _prompts(canvas: Canvas, y: int, blocks: Sequence[Block]) -> int:
    """Each prompt with the attacks whose column it is of; where the text ends."""
    pairs = sorted((b.prompts[0], i) for i, b in enumerate(blocks) if b.prompts)
    groups = [(p, [i for _, i in found]) for p, found in groupby(pairs, key=lambda pair: pair[0])]
    for prompt, of in sorted(groups, key=lambda group: group[1]):
        names = ", ".join(blocks[i].attack for i in of)
        who = "all" if len(of) == len(blocks) else names
        for line in wrap(f"“{prompt}” ({who})", canvas.letters, canvas.width - 2 * GAP, 6):
            canvas.text(GAP, y, line, "#404040")
            y += canvas.line
    return y + GAP
