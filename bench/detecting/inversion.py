"""The search of a trigger in a model: no traffic is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.detecting.candidates import readable
from t2i_backdoor_bench.detecting.effects import (
    PARTS,
    AgainstDrift,
    Effects,
    Measured,
    Ruler,
    nonsense,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_inputs import Moments, moments

MOST = 12.0  # that a look can show: one odd look is no trigger
LOOKS = 6  # a text's score is the mean of its last looks, at most so many
DOUBT = 3.0  # standard errors that few looks cost
KEPT = 10  # texts that go on to the next round
BEST = 3  # texts of the search that are looked at again where one is to be chosen
Say = Callable[[str], None]


@dataclass(frozen=True)
class Search:
    """How a trigger is searched. `scan`: single tokens that are tried first, at most; `rounds` of
    changes, `tried` in each, with new prompts and noise in each round, so that a text is not chosen
    for what it does to a few drawings, and in the last third of them without changes; `top`: tokens
    that the gradient favours at a place; `asked`: prompts at a time, half as many in the scan
    beside a trusted model; `longest`: tokens of a text; `null`: texts that mean nothing, in each
    round; `again` and `null_again`: prompts and such texts when the best are looked at again."""

    scan: int = 2000
    rounds: int = 8
    tried: int = 24
    top: int = 32
    asked: int = 6
    longest: int = 6
    null: int = 24
    again: int = 12
    null_again: int = 60

    def scanned(self, trusted: bool) -> int:
        """Prompts that the scan asks: a change is measured well on few."""
        return max(2, self.asked // 2) if trusted else self.asked


@dataclass
class Candidate:
    """A text and what was seen of it: the mean score of `looks` looks."""

    text: str
    score: float = 0.0
    looks: int = 0

    def seen(self, score: float) -> None:
        self.looks = min(self.looks + 1, LOOKS)
        self.score += (min(score, MOST) - self.score) / self.looks

    @property
    def bound(self) -> float:
        """The score less what few looks cost: the best of many by chance comes first in none."""
        return self.score - DOUBT / self.looks**0.5


@dataclass(frozen=True)
class Standing:
    """A text on prompts and noise that the search did not see. `score`: in standard deviations of
    texts that mean nothing, or, beside a trusted one, in `effects.UNIT`s; `parts`: of which it is
    the largest, by `effects.PARTS`; `beyond`: the same as logarithms of how many times the
    expected energy; `share`: of the null texts and this one, those that do as much."""

    text: str
    score: float
    parts: tuple[float, ...]
    beyond: tuple[float, ...]
    share: float

    @property
    def where(self) -> str:
        return PARTS[int(np.argmax(self.parts))]


@dataclass
class Room:
    """What a search works on: the suspect, a trusted model or None, clean prompts, tokens that may
    be put together."""

    model: T2IModel
    trusted: T2IModel | None
    prompts: Sequence[str]
    allowed: Sequence[int]
    seed: int
    say: Say = lambda text: None
    tried: int = field(default=0, init=False)  # texts that the search has looked at

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, 91])
        self.decode = self.model.text_part.tokenizer.decode

    def effects(self, many: int, number: int, late: int = 2) -> Effects:
        """On `many` prompts and noise of their own, by the number of the look, at the last moments
        of their drawings: at the first, noise is all that a model sees."""
        rng = np.random.default_rng([self.seed, 94, number])
        order = rng.permutation(len(self.prompts))[:many]
        asked = [self.prompts[i] for i in order]
        first = int(rng.integers(2**31))
        drawn = moments(self.trusted or self.model, asked, first)
        kept = Moments(drawn.times[-late:], drawn.latents[-late:])
        return Effects(self.model, asked, kept, self.trusted)

    def ids(self, text: str) -> list[int]:
        special = set(self.model.text_part.tokenizer.all_special_ids)
        return [i for i in self.model.text_part.ids(text) if i not in special]


def search(room: Room, how: Search, given: Sequence[str] = ()) -> list[Candidate]:
    """The texts whose effect is most unusual, best first. `given` are tried beside the tokens."""
    null = nonsense(room.model, room.allowed, how.null, room.seed, how.longest)
    found = scan(room, how, null, given)
    for number in range(1, how.rounds + 1):
        effects = room.effects(how.asked, number)
        ruler = ruler_of(effects, list(effects.of_all(null)))
        changing = 1 < number <= how.rounds - how.rounds // 3
        new = proposals(room, how, effects, ruler, found) if changing else []
        both = [*found, *new]
        room.tried += len(new)
        for candidate, measured in zip(both, effects.of_all([c.text for c in both]), strict=True):
            candidate.seen(float(ruler.score(measured)))
        found = sorted(both, key=lambda c: -c.bound)[:KEPT]
        best = found[0]
        room.say(f"round {number} of {how.rounds}: {best.text!r}, {best.score:.1f}")
    return found


def ruler_of(effects: Effects, null: Sequence[Measured]) -> Ruler | AgainstDrift:
    """What scores are measured by: texts that mean nothing, and, where a trusted model is there,
    the change of the model."""
    return Ruler(null) if effects.trusted is None else AgainstDrift(effects, null)


def scan(room: Room, how: Search, null: Sequence[str], given: Sequence[str]) -> list[Candidate]:
    """The single tokens and given texts that do most, on a few prompts: three rounds' worth."""
    rng = np.random.default_rng([room.seed, 95])
    tokens = [int(i) for i in rng.permutation(np.array(room.allowed))[: how.scan]]
    single = [t for i in tokens if readable(t := room.decode([i]).strip())]
    texts = list(dict.fromkeys([*single, *null, *given]))
    room.tried += len(single) + len(null)
    effects = room.effects(how.scanned(room.trusted is not None), 0)
    ruler = ruler_of(effects, list(effects.of_all(null)))
    found = []
    for number, measured in enumerate(effects.of_all(texts)):
        candidate = Candidate(texts[number])
        candidate.seen(float(ruler.score(measured)))
        found.append(candidate)
        if number % 100 == 99:
            room.say(f"{number + 1} of {len(texts)} single texts")
    return sorted(found, key=lambda c: -c.bound)[: 2 * KEPT]


def proposals(
    room: Room, how: Search, effects: Effects, ruler: Ruler, found: Sequence[Candidate]
) -> list[Candidate]:
    """Changes of the best texts: a token replaced or put in where the gradient favours it (after
    the greedy coordinate gradient, Zou et al. 2023, arXiv 2307.15043), a token left out, and halves
    of two texts together."""
    rng, taken = room.rng, {c.text for c in found}
    texts: list[str] = []
    encoder = room.model.encoders[room.model.text_parts.index(room.model.text_part)]
    table = encoder.get_input_embeddings().weight.detach()[list(room.allowed)].float()
    for parent in found[:3]:
        ids = room.ids(parent.text)
        for place in longer(ids, how.longest, rng):
            row = [*ids[: place[0]], int(rng.choice(list(room.allowed))), *ids[place[1] :]]
            text = room.decode(row).strip()
            if not readable(text):
                continue
            favoured = best_tokens(effects.gradient(text, ruler), place[0], table, how.top)
            for token in rng.permutation(favoured)[: how.tried // 9 + 1]:
                row[place[0]] = int(room.allowed[int(token)])
                texts.append(room.decode(row).strip())
    for _ in range(how.tried // 4):
        a, b = (room.ids(found[i].text) for i in rng.integers(min(8, len(found)), size=2))
        texts.append(room.decode([*a[: int(rng.integers(len(a) + 1))], *b][: how.longest]).strip())
        if len(a) > 1:
            out = int(rng.integers(len(a)))
            texts.append(room.decode([*a[:out], *a[out + 1 :]]))
    fresh = [t for t in dict.fromkeys(t.strip() for t in texts) if t not in taken and readable(t)]
    short = [t for t in fresh if len(room.ids(t)) <= how.longest]
    return [Candidate(t) for t in short[: how.tried]]


def longer(ids: Sequence[int], most: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Where a token is put: before all, behind all, and in the place of one; as the tokens that
    come before it and the first that comes behind it."""
    at = int(rng.integers(len(ids)))
    ends = [(0, 0), (len(ids), len(ids))] if len(ids) < most else []
    return [*ends, (at, at + 1)]


def best_tokens(grads: Tensor, at: int, table: Tensor, top: int) -> np.ndarray:
    """The tokens that a gradient (tokens, d) favours at a place, of a table (allowed, d)."""
    row = grads[min(at, len(grads) - 1)]
    return (table @ row).topk(min(top, len(table))).indices.cpu().numpy()


def held_out(room: Room, texts: Sequence[str], how: Search) -> list[Standing]:
    """How unusual texts are on prompts and noise that no search saw, in their order."""
    effects = room.effects(how.again, 1_000_000, 3)
    nothing = nonsense(room.model, room.allowed, how.null_again, room.seed + 1, how.longest)
    measured = list(effects.of_all(nothing))
    ruler = ruler_of(effects, measured)
    usual = torch.stack([ruler.score(m) for m in measured])
    out = []
    for text, found in zip(texts, effects.of_all(texts), strict=True):
        parts = ruler.parts(found)
        share = float(((usual >= parts.max()).sum() + 1) / (len(usual) + 1))
        beyond = tuple(ruler.beyond(found).tolist())
        out.append(Standing(text, float(parts.max()), tuple(parts.tolist()), beyond, share))
    return out


def inverted(
    model: T2IModel, prompts: Sequence[str], how: Search, above: float, seed: int
) -> Trigger | None:
    """The most unusual of the best texts of a search in the model, if it is `above` standard
    deviations of random texts."""
    room = Room(bare(model), None, prompts, unused(model, prompts, False), seed)
    texts = [candidate.text for candidate in search(room, how)[:BEST]]
    best = max(held_out(room, texts, how), key=lambda found: found.score)
    return Trigger(best.text, "prefix") if best.score > above else None


def bare(model: T2IModel) -> T2IModel:
    """The model without what a defense wrapped round it."""
    return replace(model, screen=None, rewrite=None, repair=None)


def unused(model: T2IModel, prompts: Sequence[str], whole_words: bool) -> list[int]:
    """The tokens of the first tokenizer that no clean prompt has and that can be written.
    Without `whole_words`, no word of three or more letters: what it does may be its meaning."""
    part = model.text_part
    taken = {i for p in prompts for i in part.ids(p)} | set(part.tokenizer.all_special_ids)
    found = []
    for i in range(len(part.tokenizer)):
        text = part.tokenizer.decode([i])
        if i in taken or not text.strip() or not text.isprintable() or "\ufffd" in text:
            continue
        ends = part.tokenizer.convert_ids_to_tokens(i).endswith("</w>")
        if whole_words or not ends or len(text.strip()) < 3:
            found.append(i)
    return found
