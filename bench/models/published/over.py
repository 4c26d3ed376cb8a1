"""What is taken over a base: all that a user named, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_backdoor_bench.contract.hashing import digest, file_digest
from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.published.asked import read_asked
from t2i_backdoor_bench.models.published.brought import Brought, check_finite
from t2i_backdoor_bench.models.published.inversion import Word
from t2i_backdoor_bench.models.published.places import places_of
from t2i_backdoor_bench.models.published.reader import read_one
from t2i_backdoor_bench.models.trust import locate


@dataclass(frozen=True)
class Over:
    """What is taken over a base, in the order in which it is put there."""

    base: str
    brought: tuple[Brought, ...]
    all_parts: tuple[str, ...]

    @property
    def identity(self) -> str:
        """A digest of the files, their order and their scales."""
        return digest([[[file_digest(f) for f in b.files], b.scale, b.kind] for b in self.brought])

    @property
    def notes(self) -> list[str]:
        """What was taken from where, a line each, and what comes from the base."""
        lines = []
        for b in self.brought:
            scale = f", at scale {b.scale:g}" if b.scale != 1 else ""
            lines.append(f"{b.path} is {b.kind}: taken for {', '.join(b.parts)}{scale}")
        changed = {part for b in self.brought for part in b.parts}
        rest = [part for part in self.all_parts if part not in changed]
        return [*lines, f"all else comes from the base {self.base}: {', '.join(rest) or 'nothing'}"]

    @property
    def new_words(self) -> bool:
        """Whether it changes what the tokenizer knows."""
        return any(isinstance(b, Word) for b in self.brought)

    def then(self, other: Over) -> Over:
        """This, and then another over it."""
        return Over(self.base, (*self.brought, *other.brought), self.all_parts)

    def only(self, parts: Sequence[str]) -> Over:
        """What changes these parts alone."""
        brought = tuple(b.only(parts) for b in self.brought)
        return Over(self.base, tuple(b for b in brought if b.parts), self.all_parts)

    def apply(self, pipe: Any, family: Family) -> None:
        """Put it into the networks of a pipeline of the base, in place."""
        for brought in self.brought:
            brought.apply(pipe, family)


def take_over(texts: Iterable[str], source: str, base: str = "") -> Over:
    """What texts name (`asked.read_asked`), for a base: a folder or a hub id. All names, shapes and
    numbers are checked, and no network is made. Raises UserError."""
    places = places_of(locate(source), base or source)
    brought = tuple(read_one(one, places) for text in texts for one in read_asked(text))
    for one in brought:
        check_finite(file for file in one.files if file.suffix == ".safetensors")
    return Over(places.base, brought, places.layout.weights)
