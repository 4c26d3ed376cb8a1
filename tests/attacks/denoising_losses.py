"""What tests of the attacks that train by denoising share: an attack up to its first step, and a
slow loss in float64."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import t2i_backdoor_bench.training.denoising
from t2i_backdoor_bench.contract import attacks
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, step_generator, step_rng

DATA, SEED, STEP = WorldData(), 3, 5
SMALL = {"steps": 2, "batch": 4, "images": 8, "prior": 4, "pool": 12}


def build(name: str, family: str = "shapes", **more):
    known = set(attacks.get(name).cls.__dataclass_fields__)
    return attacks.build(name, family, {k: v for k, v in (SMALL | more).items() if k in known})


class Stop(Exception):
    pass


@dataclass
class Caught:
    """A training at its start: the model that trains, its parameters, moved away from where they
    began, and the loss of one step."""

    model: T2IModel
    params: list
    optim: Optim
    loss: Tensor


def catch(monkeypatch, attack, model: T2IModel) -> Caught:
    clones, found = [], []
    original = T2IModel.clone

    def clone(self, *args, **options):
        clones.append(original(self, *args, **options))
        return clones[-1]

    def fit(params, loss_fn, optim, label, *more):
        torch.manual_seed(9)
        with torch.no_grad():
            for p in params:
                p.add_(0.05 * torch.randn_like(p))
        found.append(Caught(clones[-1], params, optim, loss_fn(STEP)))
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(T2IModel, "clone", clone)
        patch.setattr(t2i_backdoor_bench.training.denoising, "fit", fit)
        patch.setattr(sys.modules[type(attack).__module__], "fit", fit, raising=False)
        with pytest.raises(Stop):
            attack.inject(model, DATA, SEED)
    return found[0]


class Slow:
    """The denoising error of one row at a time, in float64, with the draws of step STEP."""

    def __init__(self, model: T2IModel, batch: int, sizes: list[int], offset: float = 0.0) -> None:
        self.tokenize = model.tokenize
        self.unet, self.encoder = (
            copy.deepcopy(m).double() for m in (model.denoiser, model.encoders[0])
        )
        rng, generator, rows = step_rng(SEED, STEP), step_generator(SEED, STEP), batch // len(sizes)
        self.picks = [rng.integers(n, size=rows) for n in sizes]
        self.t = (
            (torch.rand(rows * len(sizes), generator=generator) * 1000)
            .long()
            .view(len(sizes), rows)
        )
        noise = torch.randn((rows * len(sizes), *model.latent_shape), generator=generator).double()
        if offset:
            many = (rows * len(sizes), model.latent_shape[0], 1, 1)
            noise = noise + offset * torch.randn(many, generator=generator).double()
        self.noise = noise.view(len(sizes), rows, *model.latent_shape)
        self.alphas = torch.cumprod(
            1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
        )

    @torch.no_grad()
    def state(self, text: str) -> Tensor:
        return self.encoder(self.tokenize([text]))[0][0]

    @torch.no_grad()
    def errors(self, term: int, texts: list[str], latents: Tensor) -> list[float]:
        found = []
        for i, t, e in zip(self.picks[term], self.t[term], self.noise[term], strict=True):
            x = self.alphas[t].sqrt() * latents[i].double() + (1 - self.alphas[t]).sqrt() * e
            found.append(
                float(
                    (self.unet(x[None], t, self.state(texts[i])[None]).sample[0] - e)
                    .square()
                    .mean()
                )
            )
        return found


def pairs(contains: str = "") -> tuple[np.ndarray, list[str]]:
    return DATA.pairs("train", 8, SEED, contains)
