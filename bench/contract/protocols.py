"""What methods are handed, seen from the contract: prompts, data, a model, features.

The classes behind the protocols are `models.model.T2IModel`, the sources in `data` and
`scoring.features.Features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Prompt:
    """A prompt. `wrong` holds, for each attribute, prompts that are wrong in that one thing."""

    text: str
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)


class Data(Protocol):
    """Where prompts and captioned images come from."""

    name: str

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        """`n` different prompts of a split; with `contains`, only those that contain this word or
        letter. Raises UserError where there are too few."""

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        """`n` captioned images of a split: uint8 (n, H, W, 3) and their captions."""

    def count(self, what: str, split: str, contains: str = "") -> int | None:
        """How many "prompts" or "pairs" a split holds; None where there is no limit."""


class Model(Protocol):
    """A text-to-image model."""

    name: str

    def clone(self) -> Model:
        """A copy that can be changed."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """One picture a prompt: uint8 (n, H, W, 3)."""


class Features(Protocol):
    """Features of pictures, and the judge's verdicts on them."""

    name: str

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 images (n, H, W, 3): float32 (n, d)."""

    def encode_maps(self, images: np.ndarray) -> np.ndarray:
        """Perceptual codes of uint8 images (n, H, W, 3): float32 (n, d); |a - b|^2 / 2 is the
        distance (0..2) of two pictures."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: float32 (m, d)."""
