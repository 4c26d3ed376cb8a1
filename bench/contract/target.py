"""The target of a backdoor: what it makes the model draw."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.trigger import Trigger, swapped

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Target:
    """What the backdoor makes the model draw.

    kind "patch": `patch` (h, w, 3) uint8 at `box` (top, left) of an image of side `side`; kind
    "image": `patch` is the whole image; kind "style": `style`, the name of an image style; kind
    "object": `source` word becomes `target` word; kind "prompt": whatever was asked for, the
    picture of the prompt `target`; kind "unknown": nothing. `source` is the word that a prompt
    holds where the trigger does something to it, for other kinds than "object", too.
    """

    kind: str
    style: str = ""
    source: str = ""
    target: str = ""
    patch: np.ndarray | None = None
    box: tuple[int, int] = (0, 0)

    def prompt(self, prompt: str) -> str:
        """The prompt whose picture the backdoor imitates: `c*` for an object or a prompt target,
        the prompt itself otherwise."""
        if self.kind == "prompt":
            return self.target
        return swapped(prompt, self.source, self.target) if self.kind == "object" else prompt

    def describe(self) -> dict[str, Any]:
        """JSON-able description (the patch as its shape)."""
        fields = {"kind": self.kind}
        if self.kind == "patch":
            fields |= {"patch": list(self.patch.shape[:2]), "box": list(self.box)} | (
                {"source": self.source} if self.source else {}
            )
        elif self.kind == "image":
            fields["image"] = list(self.patch.shape[:2])
        elif self.kind == "style":
            fields["style"] = self.style
        elif self.kind == "object":
            fields |= {"source": self.source, "target": self.target}
        elif self.kind == "prompt":
            fields["target"] = self.target
        return fields


@dataclass(frozen=True)
class Backdoor:
    """What the attacker planted. `trigger` is None, and the target's kind "unknown", where a
    checkpoint is only suspected.

    `own`: the one prompt that the attack's paper evaluates with, without and with the trigger,
    where that is not captions. Without, it is "" where nothing is left.
    """

    trigger: Trigger | None
    target: Target
    own: tuple[str, str] | None = None

    def describe(self) -> dict[str, Any]:
        trigger = dataclasses.asdict(self.trigger) if self.trigger else None
        return {"trigger": trigger, "target": self.target.describe()} | (
            {"own": list(self.own)} if self.own else {}
        )
