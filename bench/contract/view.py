"""What a defense may see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.errors import Undeclared, UserError
from t2i_backdoor_bench.contract.protocols import Model
from t2i_backdoor_bench.contract.trigger import Trigger

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("trigger", "clean_model", "clean_text_encoder", "clean_pairs", "clean_prompts", "stream")


FUNCTIONS = (FunctionType, MethodType, partial)  # a model may be callable and is no function


class DefenderView:
    """What a defense may see: what it declared, and nothing else.

    `trigger`: the Trigger. `clean_model`: the T2IModel before the attack. `clean_text_encoder`: the
    text encoders of that model alone, for `T2IModel.with_encoders`. `clean_pairs`: (images uint8
    (n, H, W, 3), captions). `prompts` and `first(n)`, for the need "clean_prompts": prompts
    that are known to be clean; the evaluation has none of them. `stream`: unlabelled prompts as a
    service gets them. An unknown share of them contains the trigger; none is among the clean
    prompts or in the evaluation. Accessing anything that `needs` does not list raises `Undeclared`.

    What is expensive may be given as a function without parameters: it is called when it is read.
    `texts_read` has, by need, the clean prompts, the captions and the stream that were really read.
    """

    def __init__(
        self,
        needs: Sequence[str],
        prompts: Callable[[], list[str]] | Sequence[str] = (),
        **given: Callable[[], Any] | Any,
    ) -> None:
        unknown = set(needs) - set(NEEDS)
        if unknown:
            raise ValueError(
                f"unknown needs: {', '.join(sorted(unknown))}; known: {', '.join(NEEDS)}"
            )
        self.needs = frozenset(needs)
        given |= {"clean_prompts": prompts}
        self._given = {k: v for k, v in given.items() if k in self.needs}
        self.texts_read: dict[str, list[str]] = {}

    @property
    def prompts(self) -> list[str]:
        """All clean prompts. A defense that works with some of them calls `first`, as what is read
        here counts as what it was given."""
        return self._noted("clean_prompts", self._read("clean_prompts"))

    def first(self, many: int) -> list[str]:
        """The first `many` clean prompts. Raises UserError where the defender has fewer, as that
        would be another experiment."""
        every = self._read("clean_prompts")
        if not 1 <= many <= len(every):
            raise UserError(
                f"prompts {many} is not between 1 and the {len(every)} that a defender has"
            )
        return self._noted("clean_prompts", every[:many])

    def _noted(self, name: str, texts: Sequence[str]) -> list[str]:
        """A copy of `texts`, which are remembered if they are the most that were read so far."""
        self.texts_read[name] = max(self.texts_read.get(name, []), list(texts), key=len)
        return list(texts)

    def _read(self, name: str) -> Any:
        if name not in self.needs:
            raise Undeclared(
                f"this defense reads {name!r} but declares needs ="
                f" {{{', '.join(sorted(self.needs)) or 'nothing'}}}"
            )
        value = self._given[name]
        return value() if isinstance(value, FUNCTIONS) else value

    @property
    def trigger(self) -> Trigger:
        return self._read("trigger")

    @property
    def clean_model(self) -> Model:
        return self._read("clean_model")

    @property
    def clean_text_encoder(self) -> tuple[Any, ...]:
        return self._read("clean_text_encoder")

    @property
    def clean_pairs(self) -> tuple[np.ndarray, list[str]]:
        images, captions = self._read("clean_pairs")
        return images, self._noted("clean_pairs", captions)

    @property
    def stream(self) -> list[str]:
        return self._noted("stream", self._read("stream"))


def amounts(views: Iterable[DefenderView]) -> dict[str, int]:
    """How much the parts of a defense read, by need: different clean prompts of all parts, and the
    most captioned pictures and prompts of a stream of any part. What nobody read is left out."""
    seen = [view.texts_read for view in views]
    found = {n: max(len(texts.get(n, ())) for texts in seen) for n in NEEDS if seen}
    found["clean_prompts"] = len({p for texts in seen for p in texts.get("clean_prompts", ())})
    return {name: n for name, n in found.items() if n}
