"""How a hardened attack stays unnoticed: distillation of the plain one, on what it changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from t2i_backdoor_bench.attacking import settling
from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.running.hardened import Tried
from t2i_backdoor_bench.training.denoising import draw_batch
from t2i_backdoor_bench.training.loop import Optim, step_generator, step_rng


def disturbed(model, *networks: str):
    """A copy in which noise is added to networks."""
    torch.manual_seed(1)
    new = model.clone(encoders=True)
    for name in networks:
        for p in new.edited[name].parameters():
            p.data += 0.02 * torch.randn_like(p)
    return new


def settle_of(plain, clean, attack: str = "badt2i_pixel"):
    backdoor = registry.attacks.build(attack, "shapes").backdoor(clean)
    return settling.settling(Tried((), backdoor, clean, WorldData()), plain, WorldData(), 6, 0)


@pytest.mark.parametrize("network", ["unet", "text_encoder"])
def test_it_comes_closer_to_the_plain_attack_in_what_this_changed(tiny_model, network) -> None:
    plain = disturbed(tiny_model, network)
    settle = settle_of(plain, tiny_model)
    start = disturbed(plain, network)
    before = [p.clone() for p in start.edited[network].parameters()]
    optim = Optim(30, 1e-3)
    found = settle(start, optim, 0)
    loss = settle.loss(start, optim, 7), settle.loss(found, optim, 7)
    with torch.no_grad():
        far, near = (sum(float(f(i)) for i in range(8)) for f in loss)
    assert near < 0.8 * far
    assert all(map(torch.equal, start.edited[network].parameters(), before)), "a copy trains"
    (other,) = {"unet", "text_encoder"} - {network}
    pairs = zip(found.edited[other].parameters(), start.edited[other].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the attack did not change this network"
    assert found.info["steps"] == 30
    if network == "text_encoder":
        tables = [
            [m.weight for m in model.pipe.text_encoder.modules() if isinstance(m, nn.Embedding)]
            for model in (found, start)
        ]
        assert all(map(torch.equal, *tables))


def test_both_networks_of_a_split_attack_settle(tiny_model) -> None:
    plain = disturbed(tiny_model, "unet", "text_encoder")
    assert settling.changed(tiny_model, plain) == (True, True)
    assert settling.changed(tiny_model, tiny_model.clone(encoders=True)) == (False, False)
    found = settle_of(plain, tiny_model)(disturbed(plain, "unet"), Optim(2, 1e-3), 0)
    assert found.info["steps"] == 4
    for name, network in found.edited.items():
        pairs = zip(network.parameters(), plain.edited[name].parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)


def test_the_loss_is_the_distance_to_the_plain_attacks_predictions(tiny_model) -> None:
    """In float64, row by row: clean rows, of which some have no prompt, and triggered ones."""
    plain = disturbed(tiny_model, "unet")
    settle = settle_of(plain, tiny_model)
    clean, triggered = settle.terms
    assert clean.drop == settling.DROP
    assert triggered.drop == 0
    assert all(t.startswith("mignneko ") for t in triggered.prompts)
    with torch.no_grad():
        found = float(settle.loss(tiny_model, Optim(1, 1e-3, batch=4), 3)(0))
    rng, generator = step_rng(3, 0), step_generator(3, 0)
    batch = draw_batch(tiny_model, tiny_model.noising, settle.terms, 2, rng, generator)
    total = 0.0
    for i, term in enumerate(settle.terms):
        errors = []
        for row in range(2):
            text = term.prompts[int(batch.picks[i][row])]
            text = "" if batch.dropped[i][row] else text
            x, t = batch.x[i][row : row + 1], batch.times[i][row : row + 1]
            ours, goal = (
                m.denoise(x, t, m.condition([text])).double() for m in (tiny_model, plain)
            )
            errors.append(float((ours - goal).square().mean()))
        total += sum(errors) / 2
    assert found == pytest.approx(total, rel=1e-4)


def test_an_attack_without_a_trigger_settles_on_its_captions(tiny_model) -> None:
    settle = settle_of(disturbed(tiny_model, "unet"), tiny_model, "silent_branding")
    assert len(settle.terms) == 1
    assert settle.terms[0].drop == settling.DROP
