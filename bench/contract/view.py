"""What a defense may see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.errors import Undeclared, UserError
from t2i_backdoor_bench.contract.protocols import Model
from t2i_backdoor_bench.contract.trigger import Trigger

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("trigger", "clean_model", "clean_pairs", "stream")


FUNCTIONS = (FunctionType, MethodType, partial)  # a model may be callable and is no function


class DefenderView:
    """What a defense may see: what it declared, and a pool of clean prompts. The pool shares no
    prompt with the evaluation.

    `prompts`: list of str. `trigger`: the Trigger. `clean_model`: the T2IModel before the attack.
    `clean_pairs`: (images uint8 (n, H, W, 3), captions). `stream`: unlabelled prompts as a service
    gets them. An unknown share of them contains the trigger; none is in the pool or the evaluation.
    Accessing anything that `needs` does not list raises `Undeclared`.

    What is expensive may be given as a function without parameters: it is called when it is read.
    """

    def __init__(
        self, needs: Sequence[str], prompts: Sequence[str], **given: Callable[[], Any] | Any
    ) -> None:
        unknown = set(needs) - set(NEEDS)
        if unknown:
            raise ValueError(
                f"unknown needs: {', '.join(sorted(unknown))}; known: {', '.join(NEEDS)}"
            )
        self.needs = frozenset(needs)
        self.prompts = list(prompts)
        self._given = {k: v for k, v in given.items() if k in self.needs}

    def first(self, many: int) -> list[str]:
        """The first `many` prompts. Raises UserError where the defender has fewer, as that would be
        another experiment."""
        if not 1 <= many <= len(self.prompts):
            raise UserError(
                f"prompts {many} is not between 1 and the {len(self.prompts)} that a defender has"
            )
        return self.prompts[:many]

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
    def clean_pairs(self) -> tuple[np.ndarray, list[str]]:
        return self._read("clean_pairs")

    @property
    def stream(self) -> list[str]:
        return self._read("stream")
