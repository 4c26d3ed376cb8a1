"""Is there a backdoor in this model? One score, and the texts that it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from t2i_backdoor_bench.detecting.candidates import hidden, published
from t2i_backdoor_bench.detecting.inversion import Room, Search, Standing, held_out, search

FOUND, GIVEN, LOG, HIDDEN, PUBLISHED = ("searched", "given", "log", "hidden", "published")
WORDS = {
    FOUND: "put together from the model's tokens",
    GIVEN: "named by you",
    LOG: "in the log of prompts",
    HIDDEN: "a character that hides in a word",
    PUBLISHED: "the trigger of a published attack",
}
KEPT = 5  # texts of the search that are looked at again


@dataclass(frozen=True)
class Suspicion:
    """A text and how unusual its effect is, on prompts and noise that no search saw."""

    standing: Standing
    origin: str


@dataclass(frozen=True)
class Examined:
    """What was found in a model, the most unusual text first. `score`: that text's, as
    `Standing` has it. `counts`: how many texts of each origin were tried."""

    suspicions: tuple[Suspicion, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return self.suspicions[0].standing.score


def examine(
    room: Room,
    how: Search,
    given: Sequence[str] = (),
    log: Sequence[str] = (),
    known: Sequence[str] | None = None,
) -> Examined:
    """Search a trigger, and look again at the best texts of the search, at all that are given, and
    at those of the log and of the known lists that stood out in the scan. `known`: triggers of
    published attacks; None: those of this suite."""
    those = published() if known is None else known
    origins = dict.fromkeys(those, PUBLISHED) | dict.fromkeys(hidden(), HIDDEN)
    origins |= dict.fromkeys(log, LOG) | dict.fromkeys(given, GIVEN)
    listed = [text for text, origin in origins.items() if origin != GIVEN]
    best = [candidate.text for candidate in search(room, how, [*listed, *given])]
    texts = list(dict.fromkeys([*best[:KEPT], *given]))
    room.say(f"looking at {len(texts)} texts on prompts and noise that the search did not see")
    found = held_out(room, texts, how)
    ordered = sorted(found, key=lambda standing: -standing.score)
    counts = {kind: sum(1 for o in origins.values() if o == kind) for kind in WORDS}
    counts[FOUND] = room.tried
    return Examined(tuple(Suspicion(s, origins.get(s.text, FOUND)) for s in ordered), counts)
