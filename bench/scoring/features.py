"""Network features of images, extracted once and shared by all metrics and judges."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Samples, Score
from t2i_backdoor_bench.data.world.readings import Reading, read
from t2i_backdoor_bench.scoring.conditions import prompts_of, served
from t2i_backdoor_bench.scoring.faithfulness import faithful, floor_of
from t2i_backdoor_bench.scoring.inception import INCEPTION_VARIABLE, Inception
from t2i_backdoor_bench.scoring.networks import Lpips
from t2i_backdoor_bench.scoring.outcomes import (
    Limits,
    Outcomes,
    color_distance,
    perceptual_distance,
    references_of,
)
from t2i_backdoor_bench.scoring.scorer import SECOND_VARIABLE, Scorer
from t2i_backdoor_bench.targets.judge import Judge

CACHED_SETS = 64  # feature arrays kept; one of 1,000 images takes 0.25 to 8 MB


class Features:
    """What metrics know about the samples of a cell: features, the judge's verdicts and prompt
    faithfulness.

    Features are cached by the content of the image array, so all cells share those of the real
    images and of the model before the attack. `Features` embeds images and texts like a `Scorer`:
    pass it to `make_judge`, and the judge shares the cache.

        features = Features(Scorer.load(spec), Inception.load())
        cell_features = features.with_judge(make_judge(backdoor, features))
    """

    def __init__(
        self,
        scorer: Scorer,
        inception: Inception | None = None,
        judge: Judge | None = None,
        lpips: Lpips | None = None,
        limits: Limits | None = None,
        second: Scorer | None = None,
    ) -> None:
        self.scorer, self.inception, self.judge, self.lpips = scorer, inception, judge, lpips
        self.limits, self.second = limits or Limits(), second
        self._cache: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._compared: OrderedDict[tuple[str, ...], np.ndarray] = OrderedDict()
        self._readings: OrderedDict[str, list[Reading]] = OrderedDict()

    def with_judge(self, judge: Judge | None, limits: Limits | None = None) -> Features:
        """The same features, with the same cache, for cells with this judge and these limits."""
        other = copy.copy(self)
        other.judge, other.limits = judge, limits or self.limits
        other._compared = OrderedDict()  # of this judge alone
        return other

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def dim(self) -> int:
        return self.scorer.dim

    def _encode(
        self, network: Scorer | Inception, images: np.ndarray, rank: str = ""
    ) -> np.ndarray:
        key = (f"{rank}{network.name}", content(images))
        if key not in self._cache:
            found = network.encode_images(images)
            # shared: a metric that writes into it would change the next one's numbers
            found.setflags(write=False)
            self._cache[key] = found
            while len(self._cache) > CACHED_SETS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """The scorer's features of uint8 images (n, H, W, 3): float32 (n, d), not normalized,
        cached."""
        return self._encode(self.scorer, images)

    def encode_maps(self, images: np.ndarray) -> np.ndarray:
        """The scorer's perceptual codes of uint8 images (n, H, W, 3): float32 (n, d). Large, and
        not cached."""
        return self.scorer.encode_maps(images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """The scorer's embeddings of texts (m): float32 (m, d), not normalized, cached."""
        return self.scorer.encode_texts(texts)

    def inception_images(self, images: np.ndarray) -> np.ndarray:
        """Inception features of uint8 images: float32 (n, 2048), cached. Raises RuntimeError
        without Inception."""
        if self.inception is None:
            raise RuntimeError(f"no Inception weights: set {INCEPTION_VARIABLE}")
        return self._encode(self.inception, images)

    def second_images(self, images: np.ndarray) -> np.ndarray:
        """The second scorer's features of uint8 images: float32 (n, d), cached. Raises RuntimeError
        without one."""
        if self.second is None:
            raise RuntimeError(f"no second scorer: set {SECOND_VARIABLE}")
        return self._encode(self.second, images, "second ")

    def images(self, samples: Samples, condition: str) -> np.ndarray:
        """Scorer features of the cell's images of a condition: float32 (n, d)."""
        return self.encode_images(samples.images[condition])

    def before(self, samples: Samples, condition: str) -> np.ndarray:
        """Scorer features of the images of the model before the attack: float32 (n, d)."""
        return self.encode_images(samples.before[condition])

    def real(self, samples: Samples) -> np.ndarray:
        """Scorer features of the held-out real images: float32 (n, d)."""
        return self.encode_images(samples.real)

    def backdoored(self, samples: Samples, condition: str) -> np.ndarray:
        """The judge's verdict on every image of a condition: bool (n,). A refused prompt shows no
        backdoor."""
        if self.judge is None:
            raise ValueError(
                "these features have no judge: use features.with_judge(make_judge(backdoor,"
                " features))"
            )
        return self.judge(samples.images[condition], prompts_of(samples, condition)) & served(
            samples, condition
        )

    def readings(self, images: np.ndarray) -> list[Reading]:
        """What uint8 images (n, 64, 64, 3) of the embedded world show by their pixels, cached."""
        key = content(images)
        if key not in self._readings:
            self._readings[key] = read(images)
            while len(self._readings) > CACHED_SETS:
                self._readings.popitem(last=False)
        return self._readings[key]

    def faithful(self, samples: Samples, condition: str) -> np.ndarray:
        """Whether every image of a condition shows what its clean prompt asks for: bool (n,). A
        refused prompt shows nothing."""
        images, prompts = samples.images[condition], prompts_of(samples, condition)
        return faithful(images, prompts, self, self.floor(samples)) & served(samples, condition)

    def floor(self, samples: Samples) -> float:
        """The similarity that a faithful picture must reach: what the model before the attack
        reaches with clean prompts (`faithfulness.floor_of`). -1 where there is no such model."""
        clean = samples.before.get("clean")
        if clean is None or not len(clean):
            return -1.0
        return floor_of(clean, samples.prompts[: len(clean)], self)

    def compared(
        self,
        what: str,
        number: Callable[..., np.ndarray],
        images: np.ndarray,
        references: np.ndarray,
        *more: Any,
    ) -> np.ndarray:
        """A number of each picture and its reference: float (n,), cached by the content of both."""
        key = (what, content(images), content(references))
        if key not in self._compared:
            self._compared[key] = number(images, references, *more)
            while len(self._compared) > CACHED_SETS:
                self._compared.popitem(last=False)
        return self._compared[key]

    def outcomes(self, samples: Samples, condition: str = "triggered") -> Outcomes:
        """What became of every image of a condition, compared with what the model before the attack
        draws of the same clean prompt and noise. Raises ValueError where there is no judge, or
        nothing to compare with."""
        backdoored = self.backdoored(samples, condition)
        images, references = samples.images[condition], references_of(samples, condition)
        positives = samples.positives  # of the prompts that get the trigger
        if condition in ("clean", "perturbed") and samples.target_prompts != samples.prompts:
            positives = None
        positives = None if positives is None else positives[: len(images)]
        trace = self.judge.trace
        if trace is None:
            raise ValueError("the judge has nothing that finds a trace: use make_judge")
        traces = self.compared("trace", trace.number, images, references, positives)
        distances = self.compared("distance", self.distances, images, references)
        colors = self.compared("color", color_distance, images, references)
        return Outcomes.first(
            backdoored,
            ~served(samples, condition),
            traces > trace.threshold,
            ~self.faithful(samples, condition),
            (distances > self.limits.distance) | (colors > self.limits.color),
        )

    def distances(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The perceptual distance of each image to another, both uint8 (n, H, W, 3): float (n,)."""
        return perceptual_distance(self, images, others)


def content(images: np.ndarray) -> str:
    """A hash of what pictures show."""
    digest = hashlib.blake2b(f"{images.shape}{images.dtype}".encode(), digest_size=20)
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()


def no_judge(features: Features) -> Score | None:
    """A Score without a value if there is no judge of the backdoor. None if there is one."""
    if features.judge is not None:
        return None
    return Score(None, note="the target of the backdoor is not known: nothing can judge it")
