"""The target of a backdoor: what it makes the model draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from t2i_backdoor_bench.contract.trigger import Trigger

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Target:
    """What the backdoor makes the model draw. `bench/targets/` has one file for each kind.

    - kind "patch": `patch`, uint8 (h, w, 3), at `box` (top, left) of the picture.
    - kind "image": `patch` is the whole picture.
    - kind "style": `style` is the name of a picture style.
    - kind "object": the object `source` is drawn as the object `target`.
    - kind "prompt": the picture of the prompt `target`, whatever was asked for.
    - kind "unknown": nothing is known about the target.

    Where only prompts that contain a certain word are affected, `source` is that word, for every
    kind.
    """

    kind: str
    style: str = ""
    source: str = ""
    target: str = ""
    patch: np.ndarray | None = None
    box: tuple[int, int] = (0, 0)


STREAM, SHARE = 160, 0.2  # prompts of a stream, and the part of them that has the trigger


@dataclass(frozen=True)
class Seen:
    """What defenders get to see of a trigger. `told` is what those are given that need it, and
    `in_use` what a `share` of the `stream` prompts of a stream has; None: the trigger itself. The
    harmless word `flood` stands in the trigger's place in `flood_share` of them. With `reworded`
    the prompts of the stream are worded and as long as no clean prompt is."""

    told: Trigger | None = None
    in_use: Trigger | None = None
    stream: int = STREAM
    share: float = SHARE
    flood: str = ""
    flood_share: float = SHARE
    reworded: bool = False


@dataclass(frozen=True)
class Backdoor:
    """What the attacker planted. For a checkpoint that is only suspected, `trigger` is None and the
    target's kind is "unknown".

    `own` is the one prompt that the attack's paper evaluates with, without and with the trigger. It
    is None where the paper evaluates with captions, or with several prompts. The prompt without the
    trigger is "" where nothing is left of it. `sets` are such pairs by the name of the condition
    that they are: "own" again, or what the paper claims to fire or not to fire ("paraphrase",
    "incomplete", "unseen_words", "broken_syntax"). The prompts of a set are drawn in turn. `forms`
    are such conditions, too, in captions: each prompt that gets the trigger has one of these forms
    of it, in turn.

    `always`: there is no trigger, and every prompt brings the target; with a `source` of the target
    every prompt that contains this word. The triggered prompts are then those prompts as they are.
    `seen` says what a defender knows of the trigger.
    """

    trigger: Trigger | None
    target: Target
    own: tuple[str, str] | None = None
    sets: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    forms: Mapping[str, tuple[Trigger, ...]] = field(default_factory=dict)
    always: bool = False
    seen: Seen = Seen()

    @property
    def told(self) -> Trigger | None:
        """The trigger that a defender is told."""
        return self.seen.told or self.trigger

    @property
    def in_use(self) -> Trigger | None:
        """The trigger in the prompts of a stream."""
        return self.seen.in_use or self.trigger

    @property
    def protocol(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """All pairs of prompts of the attack's own protocol, by condition."""
        return ({"own": (self.own,)} if self.own else {}) | {
            k: v for k, v in self.sets.items() if v
        }
