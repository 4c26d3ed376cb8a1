"""How different are the images from each other? A model that draws noise can win both: read them beside prompt fidelity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.features import Features, missing, served, unit
from bench.registry import register_metric
from bench.stats import mean
from bench.types import Samples, Score


@register_metric("diversity", better="higher")
@dataclass
class Diversity:
    """Mean pairwise cosine distance (0..2) of the scorer's features among images of one prompt under different noise; mean over prompts.

    `each` holds one value a prompt. Needs two images a prompt. A model that draws noise can win. Refused prompts are left out.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        if gap := missing(samples, "diverse"):
            return gap
        k = samples.per_prompt
        if k < 2:
            return Score(None, network=features.name, note="diversity needs at least 2 images a prompt")
        x = unit(features.images(samples, "diverse"))
        x = x.reshape(-1, k, x.shape[1])
        # |sum of k unit vectors|^2 = k + the cosines of all ordered pairs
        cosine = ((x.sum(1) ** 2).sum(1) - (x**2).sum((1, 2))) / (k * (k - 1))
        keep = served(samples, "diverse").reshape(-1, k).all(1)
        return mean(1 - cosine[keep], features.name)


@register_metric("vendi", better="higher")
@dataclass
class Vendi:
    """Vendi score (Friedman and Dieng 2023) of the clean images: the effective number of different ones, 1..n, by cosine kernel.

    exp of the entropy of the eigenvalues of K / n, on the scorer's features. Depends on n: compare equal n only. A model that draws noise
    can win. Refused prompts are left out.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        if gap := missing(samples, "clean"):
            return gap
        x = unit(features.images(samples, "clean")[served(samples, "clean")])
        if not len(x):
            return Score(None, network=features.name, note="no images")
        # K = x x^T and x^T x have the same nonzero eigenvalues: take the smaller
        gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
        values = np.linalg.eigvalsh(gram / len(x))
        values = values[values > 1e-12]
        return Score(float(np.exp(-(values * np.log(values)).sum())), n=len(x), network=features.name)
