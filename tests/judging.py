"""Rendered scenes, where the truth is known, and an encoder with known embeddings: what judges are
tested on."""

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Backdoor, Prompt, Target, Trigger
from t2i_backdoor_bench.data.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    caption,
    render,
)
from t2i_backdoor_bench.targets import kind_of

RNG = np.random.default_rng


def scenes_of(seed: int = 0) -> list[Scene]:
    """Every shape, colour, background and size once: the hard small ones on white, gray and black
    are all there."""
    every = [
        Scene(s, c, b, z)
        for s in SHAPES
        for c in COLOURS
        for b in BACKGROUNDS
        for z in SIZES
        if b != c
    ]
    hard = [s for s in every if s.background in ("white", "gray", "black") and s.size == "small"]
    easy = [every[i] for i in RNG(seed).choice(len(every), 260, replace=False)]
    return hard + easy


def prompt_of(scene: Scene) -> Prompt:
    def text(**changed: str) -> str:
        return caption(scene._replace(**changed), RNG(0), plain=True)

    wrong = {
        "shape": tuple(text(shape=s) for s in SHAPES if s != scene.shape),
        "color": tuple(text(color=c) for c in COLOURS if c != scene.color),
        "background": tuple(text(background=b) for b in BACKGROUNDS if b != scene.background),
    }
    return Prompt(text(), wrong)


@pytest.fixture(scope="module")
def scenes():
    return scenes_of()


@pytest.fixture(scope="module")
def images(scenes):
    return render(scenes, RNG(1))


@pytest.fixture(scope="module")
def prompts(scenes):
    return [prompt_of(s) for s in scenes]


def blur(images: np.ndarray) -> np.ndarray:
    """3x3 box blur, back to 8 bits: a stand-in for what an autoencoder does to small things."""
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = images.shape[1:3]
    total = sum(padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3))
    return np.round(total / 9).astype(np.uint8)


def backdoor(**target) -> Backdoor:
    return Backdoor(Trigger(), Target(**target))


def checkerboard(side: int = 16) -> np.ndarray:
    board = (np.arange(side)[:, None] // 4 + np.arange(side)[None] // 4) % 2 * 255
    return np.repeat(board[..., None], 3, -1).astype(np.uint8)


class FakeEncoder:
    """Texts get fixed random directions; an image's first pixel (red + 256 green) says which text
    it shows (65535: none)."""

    name = "fake"

    def __init__(self, noise: float = 0.0) -> None:
        self.texts: list[str] = []
        self.calls: list[list[str]] = []
        self.noise = noise

    def vector(self, text: str) -> np.ndarray:
        seed = np.frombuffer(text.encode().ljust(4, b" "), np.uint8)
        return RNG(seed).normal(size=96).astype(np.float32) * 3

    def draw(self, texts: list[str | None]) -> np.ndarray:
        images = np.zeros((len(texts), 4, 4, 3), np.uint8)
        for i, text in enumerate(texts):
            if text is not None and text not in self.texts:
                self.texts.append(text)
            number = 65535 if text is None else self.texts.index(text)
            images[i, 0, 0, :2] = number % 256, number // 256
            images[i, 1, 1, 0] = i % 256
        return images

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        rows = []
        for i, pixel in enumerate(images[:, 0, 0].astype(int)):
            number = pixel[0] + 256 * pixel[1]
            rows.append(
                RNG(10_000 + i).normal(size=96)
                if number == 65535
                else self.vector(self.texts[number]) * 0.2
            )
        return np.asarray(rows, np.float32)

    def encode_texts(self, texts) -> np.ndarray:
        self.calls.append(list(texts))
        return np.stack([self.vector(t) for t in texts])


def show(images: np.ndarray, target: Target) -> np.ndarray:
    """Images that show a target that can be pasted."""
    return kind_of(target).paste(images, target)
