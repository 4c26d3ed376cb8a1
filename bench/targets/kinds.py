"""The base class of the kinds of target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from t2i_backdoor_bench.contract import Target
from t2i_backdoor_bench.data.world import Scene
from t2i_backdoor_bench.data.world.readings import Reading

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract.protocols import Features
    from t2i_backdoor_bench.targets.judge import Judge
    from t2i_backdoor_bench.targets.trace import Trace

# uint8 images (n, H, W, 3), their readings and the scenes of their clean prompts -> bool (n,)
Truth = Callable[[np.ndarray, Sequence[Reading], Sequence[Scene]], np.ndarray]


class Kind:
    """One kind of target. Its methods get the target that they work on.

    `name` is the `kind` of its targets. `pastes`: whether the target can be drawn into finished
    pictures; otherwise the model must draw it from a prompt. `judged`: whether pictures can be
    judged at all. `about_objects`: whether the backdoor replaces one object by another, so that the
    attack needs pictures of both.
    """

    name: ClassVar[str]
    pastes: ClassVar[bool] = False
    judged: ClassVar[bool] = True
    about_objects: ClassVar[bool] = False

    def paste(self, images: np.ndarray, target: Target) -> np.ndarray:
        """A copy of uint8 images (n, H, W, 3) that shows the target. Raises ValueError for a kind
        that cannot be pasted, and UserError for a target that does not fit."""
        raise ValueError(
            f"a target of kind {self.name!r} cannot be applied to images: give positives"
        )

    def asked(self, target: Target, prompt: str) -> str:
        """The prompt whose picture the backdoor imitates (the papers' c*)."""
        return prompt

    def judge(self, target: Target, scorer: Features) -> Judge:
        """What decides whether a picture shows the target. Raises UserError for a target that is
        incomplete."""
        raise NotImplementedError

    def trace(self, target: Target, scorer: Features) -> Trace:
        """What finds a weaker, moved or changed target in a picture."""
        raise NotImplementedError

    def truth(self, target: Target) -> Truth | None:
        """What tells by the pixels of pictures of the embedded world, and by rules that share
        nothing with the judge, whether they show the target. None where pixels cannot tell."""
        return None

    def weakened(
        self, images: np.ndarray, target: Target, positives: np.ndarray | None
    ) -> np.ndarray:
        """A copy of clean uint8 images (n, H, W, 3) that shows the target so weak, or so changed,
        that the judge may not see it: what `trace` has to find. `positives` are the pictures that
        the backdoor asks for, of a kind that cannot be pasted."""
        raise NotImplementedError

    def describe(self, target: Target) -> dict[str, Any]:
        """The target as JSON values; a patch is described by its height and width."""
        return {"kind": self.name}

    def check(self, target: Target, side: int) -> None:
        """Raise UserError for a target that does not fit pictures of side `side` in pixels."""
