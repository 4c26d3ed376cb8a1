"""From a detector's score to a model that refuses prompts: calibration on clean prompts, and a
memory so that a prompt is scored once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from t2i_backdoor_bench.contract import Screen
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.stats.estimates import threshold_at

SEARCHED = 32  # triggered prompts in which a locator is measured
Scoring = Callable[
    [Sequence[str]], np.ndarray
]  # n prompts -> float (n,), larger is more suspicious


@dataclass
class ScoreScreen(Screen):
    """Refuses the prompts whose score is above `threshold`, and those that the screen `before` it
    refuses.

    `score` gets the distinct prompts that it has not seen, all at once, as `rewrite` changed them,
    if there is one. `seconds` and `scored` count what the scoring cost.
    """

    score: Scoring
    threshold: float = np.inf
    rewrite: Callable[[str], str] | None = None
    before: Screen | None = None
    seconds: float = 0.0
    scored: int = 0
    _known: dict[str, float] = field(default_factory=dict)

    def scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Scores of n prompts: float64 (n,). Raises ValueError where one is not finite."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            begun = time.perf_counter()
            found = np.asarray(
                self.score([self.rewrite(p) for p in new] if self.rewrite else new), np.float64
            )
            self.seconds += time.perf_counter() - begun
            self.scored += len(new)
            if found.shape != (len(new),) or not np.isfinite(found).all():
                raise ValueError(
                    f"a detector must give {len(new)} finite scores, got shape {found.shape}:"
                    f" {found[~np.isfinite(found)]}"
                )
            self._known.update(zip(new, found.tolist(), strict=True))
        return np.array([self._known[p] for p in prompts], np.float64)

    def refuses(self, prompts: Sequence[str]) -> np.ndarray:
        """Which of n prompts are refused: bool (n,)."""
        refused = self.scores(prompts) > self.threshold
        return refused if self.before is None else refused | self.before.refuses(prompts)


def screened(model: T2IModel, score: Scoring, prompts: Sequence[str], rate: float) -> T2IModel:
    """`model` with a screen that refuses at most a share `rate` of the clean `prompts`. Its weights
    stay as they are; a screen that it already has goes on refusing."""
    screen = ScoreScreen(score, rewrite=model.rewrite, before=model.screen)
    screen.threshold = threshold_at(screen.scores(prompts), rate)
    return replace(model, screen=screen)


def answers(
    model: T2IModel, asked: Mapping[str, Sequence[str]]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What a model says of the prompts of each condition, without drawing them, and what that cost.

    "refused/condition" bool and "score/condition" float64 where it screens prompts,
    "span/triggered" int64 (k, 2) where it locates triggers; {"detection_ms": milliseconds a
    prompt}.
    """
    arrays: dict[str, np.ndarray] = {}
    cost: dict[str, float] = {}
    if model.screen is not None:
        every = list(dict.fromkeys(p for prompts in asked.values() for p in prompts))
        begun = time.perf_counter()
        model.refuses(every)  # all at once: a detector works in batches, and remembers
        cost["detection_ms"] = 1000 * (time.perf_counter() - begun) / len(every)
        for condition, prompts in asked.items():
            arrays[f"refused/{condition}"] = model.refuses(prompts)
            scores = model.screen.scores(prompts)
            if scores is not None:
                arrays[f"score/{condition}"] = scores
    if model.locate is not None and "triggered" in asked:
        arrays["span/triggered"] = model.locate(list(asked["triggered"][:SEARCHED]))
    return arrays, cost
