"""Turn a detector's score into a model that refuses prompts. The threshold is calibrated on clean
prompts, and each prompt is scored only once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from t2i_backdoor_bench.contract import Defense, Difference, Screen, option
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.stats.estimates import threshold_at

SEARCHED = 32  # triggered prompts on which a locator is measured
# n prompts -> float (n,), larger is more suspicious
Scoring = Callable[[Sequence[str]], np.ndarray]


@dataclass
class Detector(Defense):
    """A detector whose threshold is set on clean prompts of the defender's: the options that all of
    them have."""

    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that set the threshold"
    )
    rate: float = option(0.05, low=0, high=1, help="share of clean prompts that may be refused")

    @property
    def needs_prompts(self) -> int:
        return self.prompts


@dataclass
class ScoreScreen(Screen):
    """Refuses prompts whose score is above `threshold`, and prompts that the screen `before`
    refuses.

    `score` is called once with all distinct prompts that it has not seen, after `rewrite` has
    changed them (if set). `verdict` is what it says of the model itself, if anything. `seconds` is
    the total time of scoring, `scored` the number of prompts.
    """

    score: Scoring
    threshold: float = np.inf
    rewrite: Callable[[str], str] | None = None
    before: Screen | None = None
    verdict: float | None = None
    seconds: float = 0.0
    scored: int = 0
    _known: dict[str, float] = field(default_factory=dict)

    def scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Scores of n prompts: float64 (n,). Raises ValueError if a score is not finite."""
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

    def suspicion(self) -> float | None:
        return self.verdict


def calibrated(paper: str = "", released: str = "") -> Difference:
    """What every detector here does with its score, beside the fixed threshold of its authors."""
    return Difference(
        what="threshold of the score",
        paper=paper,
        released=released,
        here="the 95th percentile of the defender's clean prompts (`rate`)",
        why="a threshold for one base means nothing on another, and all detectors here refuse the"
        " same share of clean prompts",
    )


def screened(model: T2IModel, score: Scoring, prompts: Sequence[str], rate: float) -> T2IModel:
    """`model` with a screen that refuses at most a share `rate` of the clean `prompts`. Weights do
    not change. A screen that the model already has stays active."""
    screen = ScoreScreen(score, rewrite=model.rewrite, before=model.screen)
    screen.threshold = threshold_at(screen.scores(prompts), rate)
    return replace(model, screen=screen)


def answers(
    model: T2IModel, asked: Mapping[str, Sequence[str]]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The model's verdicts on the prompts of each condition, without generating images, and their
    cost.

    Arrays: "refused/condition" bool and "score/condition" float64 if the model screens prompts,
    "span/triggered" int64 (k, 2) if it locates triggers. Cost: {"detection_ms": milliseconds per
    prompt}.
    """
    arrays: dict[str, np.ndarray] = {}
    cost: dict[str, float] = {}
    if model.screen is not None:
        every = list(dict.fromkeys(p for prompts in asked.values() for p in prompts))
        begun = time.perf_counter()
        model.refuses(every)  # all at once: a detector scores in batches and caches the scores
        cost["detection_ms"] = 1000 * (time.perf_counter() - begun) / len(every)
        for condition, prompts in asked.items():
            arrays[f"refused/{condition}"] = model.refuses(prompts)
            scores = model.screen.scores(prompts)
            if scores is not None:
                arrays[f"score/{condition}"] = scores
    if model.locate is not None and "triggered" in asked:
        arrays["span/triggered"] = model.locate(list(asked["triggered"][:SEARCHED]))
    return arrays, cost
