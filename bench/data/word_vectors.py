"""Words by their vectors: which words stand near a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from t2i_backdoor_bench.contract import UserError


@dataclass
class WordVectors:
    """`vectors`, float32 (n, d), of n words."""

    words: list[str]
    vectors: np.ndarray

    def __post_init__(self) -> None:
        self._places = {w: i for i, w in enumerate(self.words)}

    def near(self, word: str, many: int, distance: float) -> list[str]:
        """At most `many` other words, nearest first, whose squared Euclidean distance is at most
        `distance`. Empty for a word without a vector."""
        if word not in self._places:
            return []
        own = self._places[word]
        apart = ((self.vectors - self.vectors[own]) ** 2).sum(1)
        order = [i for i in np.argsort(apart, kind="stable")[: many + 1] if i != own][:many]
        return [self.words[i] for i in order if apart[i] <= distance]


def near_words(path: Path, many: int, distance: float) -> Callable[[str], list[str]]:
    """The words near a word (`WordVectors.near`) by a file of vectors, each looked up once."""
    vectors = read_vectors(path)
    return cache(lambda word: vectors.near(word, many, distance))


def read_vectors(path: Path) -> WordVectors:
    """The vectors of a text file with a word and its numbers in each line, as GloVe and
    counter-fitted vectors come; a first line with two numbers alone is skipped. Raises UserError
    for another file."""
    words, rows = [], []
    try:
        with path.open(encoding="utf-8") as file:
            for i, line in enumerate(file):
                word, *numbers = line.split()
                if i == 0 and len(numbers) == 1:
                    continue
                words.append(word)
                rows.append(np.array(numbers, np.float32))
        return WordVectors(words, np.stack(rows))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no text file of word vectors, with a word and its numbers in each line"
        ) from error
