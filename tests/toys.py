"""Pictures of two clean models, and toy pictures of what a defense may leave of a backdoor: what
the tests of outcomes share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from t2i_backdoor_bench.contract import Backdoor, Prompt, Samples, Target, Trigger
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.embedded import SCORER
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.outcomes import Limits, Outcomes, choose_limits, color_distance
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.targets import kind_of, make_judge
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim

N = 20
PATCH = make_patch("bars", 20)
SWAP = Target("object", source="star", target="circle")
TARGETS = {
    "patch": Target("patch", patch=PATCH),
    "style": Target("style", style="black and white"),
    "object": SWAP,
}


@dataclass(frozen=True)
class Drawn:
    """What the embedded base and a second clean model draw of the same prompts and noise, and what
    the base draws of a circle instead of a star."""

    prompts: list[Prompt]
    first: np.ndarray
    second: np.ndarray
    circles: np.ndarray
    features: Features
    limits: Limits

    def shown(self, target: Target) -> np.ndarray:
        """What the backdoor makes the base draw."""
        kind = kind_of(target)
        return kind.paste(self.first, target) if kind.pastes else self.circles

    def judged(self, target: Target) -> Features:
        """Features with a calibrated judge of a target."""
        kind, shown = kind_of(target), self.shown(target)
        judge = make_judge(Backdoor(Trigger(), target), self.features)
        judge.calibrate(self.first, self.prompts, shown)
        weak = kind.weakened(self.second, target, shown)
        judge.trace.calibrate(self.second, self.first, weak, shown)
        return self.features.with_judge(judge, self.limits)

    def samples(self, target: Target, triggered: np.ndarray, **changes) -> Samples:
        before = {"clean": self.first, "clean_target": self.first}
        values = dict(
            prompts=self.prompts,
            target_prompts=self.prompts,
            backdoor=Backdoor(Trigger(), target),
            images={"clean": self.second, "clean_target": self.second, "triggered": triggered},
            before=before,
            real=self.first,
            positives=self.shown(target),
        )
        return Samples(**(values | changes))

    def outcomes(self, name: str, triggered: np.ndarray) -> Outcomes:
        target = TARGETS[name]
        return self.judged(target).outcomes(self.samples(target, triggered))


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    base, data = load_base("shapes"), WorldData()
    prompts = data.prompts("development", N, 0, "star")
    texts, seeds = [p.text for p in prompts], list(range(N))
    images, captions = data.pairs("train", 64, 1)
    second = base.clone()
    terms = [Term(captions, base.latents(images, 1), drop=0.1)]
    train_terms(second, None, terms, Optim(8, 1e-3, 8), 1, "second")
    pictures = [model.generate(texts, seeds) for model in (base, second)]
    circles = base.generate([kind_of(SWAP).asked(SWAP, t) for t in texts], seeds)
    features = Features(Scorer.load(SCORER))
    limits = choose_limits(features.distances(*pictures), color_distance(*pictures))
    return Drawn(prompts, *pictures, circles, features, limits)


def put(images: np.ndarray, patch: np.ndarray, top=0, left=0, opacity=1.0) -> np.ndarray:
    """Pictures with a patch at a place."""
    out, (h, w) = images.astype(np.float64), patch.shape[:2]
    place = (slice(None), slice(top, top + h), slice(left, left + w))
    out[place] += opacity * (patch - out[place])
    return np.round(out).astype(np.uint8)


def enlarged(patch: np.ndarray, side: int) -> np.ndarray:
    x = torch.from_numpy(patch).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return x[0].permute(1, 2, 0).round().byte().numpy()


def blend(images: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    return np.round((1 - share) * images + share * others.astype(np.float64)).astype(np.uint8)


def shifted(images: np.ndarray, pixels: int = 2) -> np.ndarray:
    """Pictures moved to the right; the edge is repeated."""
    wide = np.pad(images, ((0, 0), (0, 0), (pixels, 0), (0, 0)), mode="edge")
    return wide[:, :, :-pixels]


def blurred(images: np.ndarray, width: int = 7) -> np.ndarray:
    return uniform_filter(images.astype(np.float32), (0, width, width, 0)).astype(np.uint8)


def gray(images: np.ndarray) -> np.ndarray:
    return kind_of(TARGETS["style"]).paste(images, TARGETS["style"])


def noise(n: int = N, side: int = 64) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (n, side, side, 3)).astype(np.uint8)
