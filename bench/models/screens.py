"""A screen made of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.contract import Screen


@dataclass(frozen=True)
class PromptScreen(Screen):
    """Refuses the prompts for which `refuse(prompt)` is true. It has no score."""

    refuse: Callable[[str], bool]

    def refuses(self, prompts: Sequence[str]) -> np.ndarray:
        return np.array([bool(self.refuse(p)) for p in prompts], bool)


def as_screen(screen: Screen | Callable[[str], bool] | None) -> Screen | None:
    """A screen as it is; a function, which refuses a prompt by returning True, as a screen."""
    if screen is None or isinstance(screen, Screen):
        return screen
    return PromptScreen(screen)
