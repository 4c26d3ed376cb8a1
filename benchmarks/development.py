"""Data of which a run reads no evaluation prompt or picture."""

from __future__ import annotations

import numpy as np

from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.data.splits import WorldData


class Development(WorldData):
    """The embedded world with the development split in the place of the evaluation split, so that
    a run reads no evaluation prompt or picture."""

    name = "shapes-development"

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        return super().prompts(_split(split), n, seed, contains)

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        return super().pairs(_split(split), n, seed, contains)


def _split(split: str) -> str:
    return "development" if split == "evaluation" else split
