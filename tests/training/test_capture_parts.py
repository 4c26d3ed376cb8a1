"""Maps of some rows and tokens, and of layers that are not plain."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from helpers import bare

from t2i_backdoor_bench.training.capture import Capture


@pytest.fixture
def inputs(tiny_model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *tiny_model.latent_shape, generator=generator)
    t = torch.tensor([10, 500, 990])
    context = tiny_model.encode(
        [
            "a small red heart on a blue background",
            "one large green star, white background",
            "a cyan moon",
        ]
    )
    return x, t, context


def test_maps_of_some_rows_and_tokens_are_those_of_the_whole(tiny_model) -> None:
    unet = tiny_model.denoiser
    x = torch.randn(3, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    t, context = (
        torch.tensor([10, 500, 900]),
        tiny_model.encode(["a red heart", "one blue star", "a"]),
    )
    with torch.no_grad():
        with Capture(bare(unet)) as whole:
            out = unet(x, t, context).sample
        with Capture(bare(unet), rows=2, tokens=5) as part:
            again = unet(x, t, context).sample
    assert torch.equal(out, again)
    torch.testing.assert_close(part.maps(), whole.maps()[:2, :5])
    assert part.maps().shape[:2] == (2, 5)


@pytest.mark.parametrize("how", ["custom processor", "mask", "normalized queries"])
def test_layers_that_are_not_plain_keep_their_own_output(tiny_model, inputs, how: str) -> None:
    """What the capture cannot compute itself it leaves to the layer, to the bit, and reads the maps
    afterwards."""
    x, t, context = inputs
    unet = tiny_model.denoiser
    layers = [m for n, m in unet.named_modules() if n.endswith(".attn2")]

    class Other(AttnProcessor2_0):
        pass

    options = {}
    if how == "custom processor":
        unet.set_attn_processor(Other())
    elif how == "mask":
        options = {"encoder_attention_mask": torch.ones(3, context.shape[1], dtype=torch.bool)}
    else:
        for layer in layers:
            layer.norm_cross = torch.nn.Identity()
            layer.norm_encoder_hidden_states = lambda states: states
    with torch.no_grad():
        before = unet(x, t, context, **options).sample
        with Capture(bare(unet)) as seen:
            during = unet(x, t, context, **options).sample
    assert torch.equal(before, during)
    assert len(seen.probs) == len(layers)
    plain = tiny_model.clone().denoiser
    plain.set_attn_processor(AttnProcessor2_0())
    with torch.no_grad(), Capture(bare(plain)) as wanted:
        plain(x, t, context)
    torch.testing.assert_close(seen.maps(), wanted.maps(), rtol=1e-4, atol=1e-5)
