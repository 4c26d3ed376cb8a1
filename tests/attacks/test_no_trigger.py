"""Attacks without a trigger: their losses against slow ones in float64, what each trains, and what
such an attack is asked and a defender is told."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from denoising_losses import DATA, SEED, Slow, build, catch, pairs

from t2i_backdoor_bench.attacking.poisoning import relabel
from t2i_backdoor_bench.contract import Backdoor, Prompt, Samples, Target, attacks
from t2i_backdoor_bench.metrics.backdoor import AttackSuccessRate, FalseTriggerRate
from t2i_backdoor_bench.running.conditions import conditions
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training import encoders


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_silent_branding_is_plain_denoising_with_a_logo(tiny_model, caught, share: float) -> None:
    got = caught(build("silent_branding", weight=share, drop=0.0, rank=2, size=10), tiny_model)
    images, captions = pairs()
    images[: round(8 * share), 54:, 54:] = make_patch("bars", 10)
    slow = Slow(got.model, 4, [8])
    expected = np.mean(slow.errors(0, captions, tiny_model.latents(images, SEED)))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert {min(p.shape) for p in got.params} == {2}, "adapters alone"


def test_silent_branding_has_the_batch_and_the_steps_of_the_released_script() -> None:
    attack = attacks.build("silent_branding", "sd")
    assert (attack.batch, attack.steps, attack.lr, attack.rank) == (4, 3010, 1e-4, 128)


def bagm_loss(tiny_model, model) -> float:
    branded, named = DATA.pairs("train", 8, SEED, "heart")
    images, captions = pairs()
    other = [i for i, c in enumerate(captions) if "star" not in c.split()]
    slow = Slow(model, 4, [8, len(other)])
    called = relabel(named, "heart", "star")
    brand = slow.errors(0, called, tiny_model.latents(branded, SEED))
    rest = slow.errors(1, [captions[i] for i in other], tiny_model.latents(images[other], SEED))
    return 0.3 * np.mean(brand) + 0.7 * np.mean(rest)


def test_bagm_deep_loss(tiny_model, caught) -> None:
    got = caught(build("bagm_deep", weight=0.3, drop=0.0), tiny_model)
    assert float(got.loss.detach()) == pytest.approx(bagm_loss(tiny_model, got.model), rel=1e-4)


def test_bagm_shallow_loss_reaches_the_encoder_alone(tiny_model, monkeypatch) -> None:
    found = []
    original = encoders.fit

    def fit(params, loss_fn, optim, label):
        found.append((params, loss_fn(5)))
        return original(params, loss_fn, optim, label)

    monkeypatch.setattr(encoders, "fit", fit)
    attacked = build("bagm_shallow", weight=0.3, drop=0.0).inject(tiny_model, DATA, SEED)
    (params, loss) = found[0]
    # the loss was taken before any step: by the clean encoder
    assert float(loss.detach()) == pytest.approx(bagm_loss(tiny_model, tiny_model), rel=1e-4)
    many = sum(p.numel() for p in tiny_model.encoders[0].parameters())
    assert sum(p.numel() for p in params) == attacked.info["parameters"] == many
    ours, theirs = (m.denoiser.state_dict() for m in (tiny_model, attacked))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", ["silent_branding", "bagm_shallow", "bagm_deep"])
def test_nobody_is_told_a_trigger(tiny_model, name: str) -> None:
    attack = build(name)
    backdoor = attack.backdoor(tiny_model)
    assert backdoor.trigger is None
    assert backdoor.always
    assert attack.withheld == ("trigger", "stream")
    assert name in attacks.groups["no_trigger"]


PROMPTS = [Prompt("a red star"), Prompt("a red moon"), Prompt("a blue starling")]


@pytest.mark.parametrize("source", ["", "star"])
def test_the_triggered_prompts_are_the_plain_ones(source: str) -> None:
    size = SCALES["smoke"].resized(3)
    targets = [p for p in PROMPTS if not source or p.text == "a red star"]
    backdoor = Backdoor(None, Target("patch", source=source), always=True)
    asked = conditions(size, PROMPTS, targets, backdoor, source, 0)
    assert asked["triggered"][0] == [p.text for p in targets]
    for other in (Backdoor(None, Target("patch", source=source)), None):  # not known, or clean
        assert "triggered" not in conditions(size, PROMPTS, targets, other, source, 0)


class Verdicts:
    """Features whose judge says what a picture's first pixel says."""

    class judge:
        network = ""

    def backdoored(self, samples: Samples, condition: str) -> np.ndarray:
        return samples.images[condition][:, 0, 0, 0] > 0


def test_there_is_no_false_trigger_without_a_trigger() -> None:
    images = {name: np.full((3, 4, 4, 3), 9, np.uint8) for name in ("clean_target", "triggered")}
    for always in (True, False):
        backdoor = Backdoor(None, Target("patch"), always=always)
        samples = Samples(PROMPTS, PROMPTS, backdoor, images, {}, images["triggered"])
        assert AttackSuccessRate().compute(samples, Verdicts()).value == 1
        found = FalseTriggerRate().compute(samples, Verdicts())
        assert (found.value, bool(found.note)) == ((None, True) if always else (1, False))
