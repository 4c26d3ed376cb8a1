"""Adapters that are merged: their factors, other scales, other company, and the file beside the
weights."""

from __future__ import annotations

import pytest
import torch
from helpers import PROMPTS, different, weights
from peft.tuners.lora import Linear
from safetensors.torch import load_file

from t2i_backdoor_bench.training import company
from t2i_backdoor_bench.training.lora import add_lora
from t2i_backdoor_bench.training.merged import at_scale, named, with_added
from t2i_backdoor_bench.training.parameters import finish_training


@pytest.fixture
def pair(tiny_model):
    """A model with adapters in the U-Net and the text encoder before they are merged, and after."""
    unmerged = tiny_model.clone(encoders=True)
    generator = torch.Generator().manual_seed(4)
    networks = (unmerged.denoiser, *unmerged.encoders)
    family = unmerged.family
    for network, targets in zip(
        networks, (family.lora_targets, family.encoder_lora_targets), strict=True
    ):
        for p in add_lora(network, targets, 3, lora_alpha=3.6):
            p.data = 0.2 * torch.randn(p.shape, generator=generator)
    merged = unmerged.clone(encoders=True)
    factors = finish_training(merged.denoiser, *merged.encoders)
    return unmerged, named(merged, factors)


def predicted(model):
    x = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.denoise(x, torch.tensor([400, 20]), model.condition(PROMPTS[:2]))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5])
def test_merged_at_a_scale_is_the_base_and_as_much_of_the_adapter(
    tiny_model, pair, scale: float
) -> None:
    unmerged, merged = pair
    before, after = weights(tiny_model), weights(at_scale(merged, scale))
    for name, value in before.items():
        layer, _, kind = name.rpartition(".")
        up, down = merged.adapter.get(layer, (None, None))
        if up is None or kind != "weight":
            assert torch.equal(after[name], value), name
        else:
            expected = value.double() + scale * (up.double() @ down.double())
            torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-6)
    for network in (unmerged.denoiser, *unmerged.encoders):
        for layer in network.modules():
            if isinstance(layer, Linear):
                layer.scaling["default"] = 1.2 * scale  # alpha / rank, times what a user asks for
    torch.testing.assert_close(
        predicted(at_scale(merged, scale)), predicted(unmerged), rtol=1e-4, atol=1e-4
    )


def test_a_repair_and_a_second_adapter_are_added(tiny_model, pair) -> None:
    _, merged = pair
    repaired = merged.clone(encoders=True)
    name = next(iter(merged.adapter))
    part, _, layer = name.partition(".")
    with torch.no_grad():
        repaired.edited[part].get_submodule(layer).weight.add_(0.5)
    found = weights(at_scale(repaired, 1.5))[f"{name}.weight"]
    up, down = merged.adapter[name]
    expected = weights(tiny_model)[f"{name}.weight"] + 1.5 * up @ down + 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = {name: (2 * up, down)}
    both = weights(with_added(merged, other, 1.0))
    torch.testing.assert_close(
        both[f"{name}.weight"],
        weights(tiny_model)[f"{name}.weight"] + 3 * up @ down,
        rtol=1e-4,
        atol=1e-5,
    )
    assert different(both, weights(merged)) == {f"{name}.weight"}


def test_the_factors_are_stored_beside_the_weights(tiny_model, pair, tmp_path) -> None:
    _, merged = pair
    merged.save_weights(tmp_path / "a.safetensors")
    found = tiny_model.with_weights(tmp_path / "a.safetensors")
    assert different(weights(found), weights(merged)) == set()
    assert found.adapter.keys() == merged.adapter.keys()
    for name, factors in merged.adapter.items():
        assert all(torch.equal(a, b) for a, b in zip(found.adapter[name], factors, strict=True))
    tiny_model.save_weights(tmp_path / "b.safetensors")
    assert not any("adapter" in k for k in load_file(tmp_path / "b.safetensors"))
    assert tiny_model.with_weights(tmp_path / "b.safetensors").adapter == {}


def test_pictures_are_drawn_with_the_adapter_in_each_use(tiny_model, pair, monkeypatch) -> None:
    _, merged = pair
    monkeypatch.setattr(company, "STEPS", 2)
    images = merged.generate(PROMPTS[:2], [1, 2])
    other = company.trained(tiny_model, images, PROMPTS[:2], 0)
    assert {k.split(".")[0] for k in other} == {"unet"}
    assert company.kinds(4) == ["scale 0.5", "scale 1.5", "another adapter beside it", "scale 0.5"]
    prompts, seeds = [PROMPTS[0]] * 3, [5, 5, 5]
    out = company.drawn(merged, other, prompts, seeds)
    for row, model in enumerate(
        (at_scale(merged, 0.5), at_scale(merged, 1.5), with_added(merged, other, 1.0))
    ):
        assert (out[row] == model.generate([PROMPTS[0]], [5])[0]).all()


def test_an_adapter_and_a_repair_on_another_base(tiny_model, pair) -> None:
    _, merged = pair
    other, repaired = tiny_model.clone(encoders=True), merged.clone(encoders=True)
    with torch.no_grad():
        for network in other.edited.values():
            for p in network.parameters():
                p.add_(
                    0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
                )
        repaired.denoiser.conv_out.bias.add_(0.5)
    before, theirs = weights(tiny_model), weights(other)
    there = company.on_base(repaired, tiny_model, other)
    for name, value in weights(there).items():
        layer, _, kind = name.rpartition(".")
        expected = theirs[name].double()
        if kind == "weight" and layer in merged.adapter:
            up, down = merged.adapter[layer]
            expected = expected + up.double() @ down.double()
        elif name == "unet.conv_out.bias":
            expected = expected + 0.5
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert different(weights(tiny_model), before) == different(weights(other), theirs) == set()
    smaller = tiny_model.clone()
    smaller.denoiser.conv_out = torch.nn.Conv2d(8, 4, 1)
    with pytest.raises(ValueError, match="conv_out"):
        company.on_base(merged, tiny_model, smaller)
