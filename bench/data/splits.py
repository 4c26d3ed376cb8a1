"""The embedded world as a data source, and the four splits of every data source.

No two splits share a prompt.

train        the pairs that an attacker poisons
defender     the clean prompts that a defense may see, and clean pairs for a defense that needs them
development  for tuning hyperparameters and choosing between variants
evaluation   for the numbers in the tables, and for nothing that trains or is chosen; the judge's
             threshold is from what the model draws of it before the attack
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable
from functools import cache

import numpy as np

from t2i_backdoor_bench.contract import Data, Prompt, Seen, Trigger, UserError
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.rewording import reworded

STYLE_WORDS = tuple(words for words in world.STYLES.values() if words)
SPLITS = {"train": 0.25, "defender": 0.2, "development": 0.15, "evaluation": 0.4}


def split_of(combination: tuple[str, str, str]) -> str:
    """The split of a (shape, colour, background) combination, fixed by checksum. So captions of
    different splits differ in content."""
    return split_of_fraction(zlib.crc32("|".join(combination).encode()[::-1]) % 1000 / 1000)


@cache
def combinations_of(split: str) -> tuple[tuple[str, str, str], ...]:
    """All combinations of a split; those that the base was not trained on come last."""
    every = (*world.combinations(False), *world.combinations(True))
    return tuple(c for c in every if split_of(c) == split)


def split_of_fraction(fraction: float) -> str:
    """The split that a number in [0, 1) falls into, when the splits lie side by side."""
    for name, width in SPLITS.items():
        if fraction < width:
            return name
        fraction -= width
    return name


class WorldData:
    """The embedded world as a data source. Scenes of the evaluation split are also the reference
    images of FID."""

    name = "shapes"

    def _scenes(
        self, split: str, n: int, rng: np.random.Generator, contains: str, style_share: float
    ) -> list[world.Scene]:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        table = [c for c in combinations_of(split) if contains in ("", c[0])]
        if not table:
            raise UserError(
                f"no prompt of the {split} split contains {contains!r}; shapes:"
                f" {', '.join(world.SHAPES)}"
            )
        sizes, styles = tuple(world.SIZES), tuple(world.STYLES)[1:]
        scenes = []
        for pick in rng.integers(len(table), size=n):
            style = styles[rng.integers(len(styles))] if rng.random() < style_share else ""
            scenes.append(world.Scene(*table[pick], sizes[rng.integers(len(sizes))], style))
        return scenes

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), 1])
        found: dict[str, Prompt] = {}
        for _ in range(20):
            for scene in self._scenes(split, n, rng, contains, 0.0):
                prompt = world_prompt(scene, rng)
                if len(found) < n:
                    found.setdefault(prompt.text, prompt)
        if len(found) < n:
            raise UserError(
                f"only {len(found)} different prompts of the {split} split contain {contains!r};"
                f" {n} were asked for"
            )
        return list(found.values())

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), 2])
        scenes = self._scenes(split, n, rng, contains, 0.0)
        images = np.concatenate([world.render(scenes[i : i + 256], rng) for i in range(0, n, 256)])
        return images, [world.caption(s, rng) for s in scenes]

    def count(self, what: str, split: str, contains: str = "") -> None:
        return None


def required_word(data: Data, source: str, replaces: str) -> str:
    """The word that a prompt must contain to get a trigger; "" if any prompt will do.

    This is `source`, the word that the backdoor is about. Without one, it is `replaces`, the text
    that the trigger replaces, if some evaluation prompts lack it.
    """
    if source or not replaces:
        return source
    everywhere = data.count("prompts", "evaluation", replaces) == data.count(
        "prompts", "evaluation"
    )
    return "" if everywhere else replaces


def prompt_stream(
    data: Data, trigger: Trigger, source: str, taken: Collection[str], seed: int, seen: Seen
) -> list[str]:
    """`seen.stream` unlabelled prompts as a service receives them, in random order; a share
    `seen.share` of them, rounded to whole prompts, has the trigger.

    They are from the defender split, without the prompts in `taken`, which the defender already
    knows as clean. With `source`, the triggered prompts contain this word, and those of a trigger
    that replaces a letter or word contain that; the others are drawn without a look at the trigger.
    With `seen.reworded` all are in other words and of other length (`data.rewording`); a prompt
    that would lose what the trigger replaces keeps its own. A word `seen.flood` then stands in
    `seen.flood_share` of all, drawn without a look at the trigger. Raises UserError if there are
    too few prompts.
    """
    used, many = set(taken), round(seen.stream * seen.share)

    def fresh(n: int, contains: str, replaced: str, offset: int) -> list[str]:
        if not n:
            return []
        few = min(n, data.count("prompts", "defender", contains) or n)
        asked = [data.prompts("defender", few, seed + offset + i, contains) for i in range(4)]
        found = dict.fromkeys(
            p.text for part in asked for p in part if p.text not in used and replaced in p.text
        )
        if len(found) < n:
            raise UserError(
                f"the defender split has too few prompts for a stream: {n} are needed"
                + (f" with the word {contains!r}" if contains else "")
                + f", and it has {len(found)}"
            )
        used.update(list(found)[:n])
        return list(found)[:n]

    hit = fresh(many, source, trigger.replaces, 20_011)
    both = [*hit, *fresh(seen.stream - many, "", "", 30_011)]
    if seen.reworded:
        other = [text for _, text in reworded(both)]
        both = [b if trigger.replaces in b else a for a, b in zip(both, other, strict=True)]
    mixed = [trigger.add(p) for p in both[:many]] + both[many:]
    if seen.flood:
        flood = Trigger(seen.flood, trigger.place)
        order = np.random.default_rng([seed, 88]).permutation(len(mixed))
        for i in order[: round(seen.stream * seen.flood_share)]:
            mixed[i] = flood.add(mixed[i])
    return [mixed[i] for i in np.random.default_rng([seed, 86]).permutation(len(mixed))]


def world_prompt(scene: world.Scene, rng: np.random.Generator) -> Prompt:
    """A caption of an unstyled scene as a prompt, with captions that are wrong in the shape, the
    colour, the background, the style or, where it names one, the size."""
    text = world.caption(scene, rng)
    return Prompt(text, _wrong(text, scene))


def _wrong(text: str, scene: world.Scene) -> dict[str, tuple[str, ...]]:
    """For shape, colour, background and size: the caption with this one word replaced by each other
    word that gives a valid scene. For the style: the caption led by the words of each style."""
    taken = (scene.color, scene.background)

    def swaps(pattern: str, words: Iterable[str], tail: str = "") -> tuple[str, ...]:
        return tuple(_article(re.sub(pattern, word + tail, text, count=1)) for word in words)

    wrong = {
        "shape": swaps(rf"\b{scene.shape}\b", (s for s in world.SHAPES if s != scene.shape)),
        "color": swaps(
            rf"\b{scene.color}\b(?! background)", (c for c in world.COLOURS if c not in taken)
        ),
        "background": swaps(
            rf"\b{scene.background} background",
            (b for b in world.BACKGROUNDS if b not in taken),
            " background",
        ),
        "style": tuple(f"{words} {world.without_lead(text)}" for words in STYLE_WORDS),
    }
    if re.search(rf"\b{scene.size}\b", text):
        wrong["size"] = swaps(rf"\b{scene.size}\b", (s for s in world.SIZES if s != scene.size))
    return wrong


def _article(text: str) -> str:
    return re.sub(r"\ban (?!orange|image)", "a ", text).replace("a orange", "an orange")
