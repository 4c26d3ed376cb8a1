"""What tests of the attacks on the text encoder share: an attack up to its training, and slow
states in float64."""

from __future__ import annotations

import copy

import pytest
import torch

import t2i_backdoor_bench.training.encoders
from t2i_backdoor_bench.contract import attacks
from t2i_backdoor_bench.data.splits import WorldData

DATA = WorldData()
SMALL_RUN = {"prompts": 6, "clean": 3, "poisoned": 2, "steps": 2, "milestone": 1}
NAMES = ("rickrolling_tpa", "rickrolling_taa", "iba")


def build(name: str, **more):
    return attacks.build(name, "shapes", SMALL_RUN | more)


def start_of(monkeypatch, attack, model, seed: int = 5):
    """Run an attack up to its training, and give the student, whose weights have moved, and the
    loss."""

    got = {}

    class Stop(Exception):
        pass

    def fit(parameters, loss_fn, optim, label):
        got.update(parameters=list(parameters), loss=loss_fn, optim=optim)
        raise Stop

    def kept(*args, **options):
        got["student"] = student = clone(*args, **options)
        return student

    clone = model.clone
    with monkeypatch.context() as patch:
        patch.setattr(t2i_backdoor_bench.training.encoders, "fit", fit)
        patch.setattr(type(model), "clone", lambda self, *a, **k: kept(*a, **k))
        with pytest.raises(Stop):
            attack.inject(model, DATA, seed)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in got["parameters"]:
            p.add_(0.05 * torch.randn_like(p))
    return got


def states(model, text: str) -> torch.Tensor:
    """float64 states (tokens, dim) of one prompt, by a float64 copy of the encoder."""
    encoder = copy.deepcopy(model.encoders[0]).double()
    with torch.no_grad():
        return encoder(model.tokenize([text]))[0][0]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))
