"""Captioned pictures as a source of prompts and training data.

Rows that share a picture or a caption go to the same split, by a checksum of their first caption.
So no split shows the prompts or pictures of another, whatever the order of the rows.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.contract import Prompt, UserError, whole
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.image_files import decode, square
from t2i_backdoor_bench.data.splits import SPLITS, split_of_fraction

OTHERS = 99  # captions that a picture's own must beat, as in R-precision (Xu et al. 2018)


@dataclass(frozen=True)
class Row:
    """One captioned picture: its caption, the SHA-256 of its file, and a function that reads it."""

    caption: str
    digest: str
    read: Callable[[], bytes]


@dataclass
class CaptionedImages:
    """Captioned pictures as a `Data` source, cropped to squares of `side` pixels. `name` ends in a
    checksum of all captions and pictures."""

    name: str
    rows: dict[str, list[Row]]  # by split
    side: int
    pictures: bool = True  # False for a list of prompts alone

    def _rows(self, split: str, contains: str) -> list[Row]:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        return [r for r in self.rows[split] if not contains or whole(contains).search(r.caption)]

    def _captions(self, split: str, contains: str) -> list[str]:
        return list({r.caption.casefold(): r.caption for r in self._rows(split, contains)}.values())

    def count(self, what: str, split: str, contains: str = "") -> int:
        if what == "prompts":
            return len(self._captions(split, contains))
        return len(self._rows(split, contains)) if self.pictures else 0

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        found = self._captions(split, contains)
        if len(found) < n:
            raise _too_few(self.name, len(found), "different captions", split, contains, n)
        everything, same = self._captions(split, ""), _of_same_picture(self.rows[split])
        order = np.random.default_rng([seed, zlib.crc32(split.encode()), 1]).permutation(len(found))
        chosen = [found[i] for i in order[:n]]
        return [with_others(text, everything, same[text.casefold()]) for text in chosen]

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        rows = self._rows(split, contains) if self.pictures else []
        if len(rows) < n:
            raise _too_few(self.name, len(rows), "captioned pictures", split, contains, n)
        order = np.random.default_rng([seed, zlib.crc32(split.encode()), 2]).permutation(len(rows))[
            :n
        ]
        images = np.empty((n, self.side, self.side, 3), np.uint8)
        for k, i in enumerate(progress(order, f"read {split} pictures", unit="picture")):
            images[k] = square(decode(rows[i].read()), self.side)
        return images, [rows[i].caption for i in order]


def _too_few(name: str, found: int, what: str, split: str, contains: str, n: int) -> UserError:
    word = f" with the word {contains!r}" if contains else ""
    return UserError(
        f"the {split} split of {name} has {found} {what}{word} and {n} are asked for: give more"
        " data, or ask for fewer (--n, or --set METHOD.images=N or METHOD.prompts=N)"
    )


def _of_same_picture(rows: Sequence[Row]) -> dict[str, set[str]]:
    """For each caption, in lower case: all captions of its pictures, in lower case, itself too."""
    of_picture: dict[str, set[str]] = {}
    for row in rows:
        of_picture.setdefault(row.digest, set()).add(row.caption.casefold())
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.caption.casefold(), set()).update(of_picture[row.digest])
    return found


def with_others(caption: str, captions: Sequence[str], same: Collection[str]) -> Prompt:
    """A caption as a prompt. Its picture must match it better than up to 99 other captions of the
    split, which are always the same ones. `same` has the captions of its own picture in lower case:
    they are as right as it is."""
    others = [c for c in captions if c.casefold() not in same]
    picks = np.random.default_rng(zlib.crc32(caption.encode())).permutation(len(others))[:OTHERS]
    return Prompt(caption, {"caption": tuple(others[i] for i in sorted(picks))} if others else {})


def into_splits(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by split. Rows that share a caption (whatever its case) or a picture stay together."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for row in rows:
        a, b = find(f"caption {row.caption.casefold()}"), find(f"picture {row.digest}")
        parent[max(a, b)] = min(a, b)  # the root is the first caption of the group
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        root = find(f"caption {row.caption.casefold()}")
        splits[
            split_of_fraction(int(hashlib.sha256(root.encode()).hexdigest()[:8], 16) / 2**32)
        ].append(row)
    return splits
