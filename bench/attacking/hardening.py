"""What adaptive attacks compute: steps from repaired weights, and settings that a detector does not
see."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from t2i_backdoor_bench.contract import Attack, Data, Rehearsal, UserError, options_of
from t2i_backdoor_bench.contract.options import DATA, drawn, scaled
from t2i_backdoor_bench.models.model import T2IModel

PROMPTS = 48  # triggered prompts of the attacker's that a detector is tried on
WEAK = 0.5  # a model that reacts to its trigger by less than this share of the default is no attack


def moved(model: T2IModel, start: T2IModel, end: T2IModel, rate: float) -> T2IModel:
    """A copy of `model` whose weights are moved by `rate` times the way from `start` to `end`: the
    first-order meta-step (Nichol et al. 2018), taken at the weights that a defense leaves. What was
    an adapter is none any more."""
    new = model.clone(encoders=True)
    with torch.no_grad():
        for name, network in new.edited.items():
            ends = zip(start.edited[name].parameters(), end.edited[name].parameters(), strict=True)
            for p, (a, b) in zip(network.parameters(), ends, strict=True):
                p.add_((b.float() - a.float()).to(p.dtype), alpha=rate)
    return replace(new, info={}, adapter={})


def reaction(
    model: T2IModel, clean: Sequence[str], triggered: Sequence[str], seed: int, rows: int = 16
) -> float:
    """How strongly a model reacts to a trigger: the mean square of the difference of its
    predictions for triggered and clean prompts (n each) on pure noise, over the mean square of the
    latter, at `rows` timesteps over the noisier three quarters of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((rows, *model.latent_shape), generator=generator).to(model.device)
    t = torch.linspace(0.25, 0.999, rows).mul(model.noising.total).long().to(model.device)
    asked = [[texts[i % len(texts)] for i in range(rows)] for texts in (clean, triggered)]
    with torch.no_grad():
        plain, other = (model.denoise(x, t, model.condition(a)).float() for a in asked)
    return float((other - plain).square().mean() / plain.square().mean().clamp_min(1e-12))


def settings_of(attack: Attack, many: int) -> list[Attack]:
    """The attack as it is, and `many` - 1 with random values of the options that have a range to
    search; always the same for an attack. An attack without such options has its own alone."""
    ranges = {n: o for n, (_, o) in options_of(type(attack)).items() if o.tune}
    rng = np.random.default_rng(zlib.crc32(type(attack).__name__.encode()))
    others = [{n: drawn(o, rng) for n, o in ranges.items()} for _ in range(many - 1)]
    return [attack, *(replace(attack, **values) for values in others if values)]


def unseen(
    attack: Attack,
    attacked: T2IModel,
    rehearse: Rehearsal,
    data: Data,
    seed: int,
    many: int,
    share: float,
) -> T2IModel:
    """The attack with the setting whose triggered prompts a detector refuses least, trained in
    full. `attacked` is the attack with its own setting. Raises UserError where no prompt of the
    attacker's can have the trigger."""
    trigger = rehearse.backdoor.trigger
    texts = [p.text for p in data.prompts("train", 4 * PROMPTS, seed + 1)]
    clean = [t for t in texts if trigger.replaces in t][:PROMPTS]
    if not clean:
        raise UserError(f"no caption contains {trigger.replaces!r}: a detector cannot be tried")
    triggered, found = [trigger.add(t) for t in clean], []
    spent = {"steps": 0, "images": 0}
    for setting in settings_of(attack, many):
        model = scaled(setting, DATA, share).inject(rehearse.clean, data, seed)
        spent = {k: v + model.info.get(k, 0) for k, v in spent.items()}
        refused = float(np.mean(rehearse(model, seed, share).refuses(triggered)))
        found.append((refused, reaction(model, clean, triggered, seed), setting))
    enough = [f for f in found if f[1] >= WEAK * found[0][1]]
    _, _, best = min(enough, key=lambda f: f[0])  # the first of equals: its own setting
    if best is attack:
        return replace(attacked, info=spent)
    model = best.inject(rehearse.clean, data, seed)
    return replace(model, info={k: v + model.info.get(k, 0) for k, v in spent.items()})
