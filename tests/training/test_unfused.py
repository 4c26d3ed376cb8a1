"""Attention that gives its probabilities beside its output, against autograd through the plain
formula in float64, one head at a time."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from helpers import bare
from torch import Tensor

from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.lora import add_lora
from t2i_backdoor_bench.training.unfused_attention import Unfused, _Attend

HEADS, ROWS, TOKENS = 2, 2, 3
CASES = {"output alone": (True, False), "maps alone": (False, True), "both": (True, True)}


def plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    width, outs, maps = q.shape[-1] // HEADS, [], 0
    for head in range(HEADS):
        a, b, c = (x[..., head * width : (head + 1) * width] for x in (q, k, v))
        score = (torch.einsum("npd,ntd->npt", a, b) / width**0.5).exp()
        score = score / score.sum(-1, keepdim=True)
        outs.append(torch.einsum("npt,ntd->npd", score, c))
        maps = maps + score / HEADS
    return torch.cat(outs, -1), maps[:ROWS, :, :TOKENS]


def ours(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return _Attend.apply(ROWS, TOKENS, HEADS, q, k, v)


@pytest.fixture
def qkv() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, n, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (4, 5, 5)
    ]


@pytest.mark.parametrize("case", CASES)
def test_output_maps_and_gradients_are_those_of_the_plain_formula(
    qkv: list[Tensor], case: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in ((3, 4, 6), (ROWS, 4, TOKENS))
    ]
    found = []
    for f in (ours, plain):
        out, maps = f(*qkv)
        loss = sum(
            (part * w).sum()
            for part, w, read in zip((out, maps), weights, CASES[case], strict=True)
            if read
        )
        found.append((out, maps, *torch.autograd.grad(loss, qkv, allow_unused=True)))
    for a, b in zip(*found, strict=True):
        if case == "maps alone" and b is None:
            assert a is None, "values have no part in the maps"
            continue
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_numeric_ones(qkv: list[Tensor]) -> None:
    assert torch.autograd.gradcheck(ours, qkv)


@pytest.mark.parametrize("wanted", range(3))
def test_only_what_needs_a_gradient_gets_one(qkv: list[Tensor], wanted: int) -> None:
    for i, x in enumerate(qkv):
        x.requires_grad_(i == wanted)
    sum(part.pow(2).sum() for part in ours(*qkv)).backward()
    assert [x.grad is not None for x in qkv] == [i == wanted for i in range(3)]


def test_no_denormal_number_is_left(qkv: list[Tensor]) -> None:
    """They take a CPU ten times as long; a probability of 1e-20 is none that float32 could add to
    one."""
    q, k, v = (x.detach().float() for x in qkv)
    out, maps = _Attend.apply(None, None, HEADS, 50 * q, k, v)
    assert (maps == 0).any()
    assert not ((maps > 0) & (maps < 1e-21)).any()
    wanted = plain(50.0 * q.double(), k.double(), v.double())
    torch.testing.assert_close(maps[:ROWS, :, :TOKENS].double(), wanted[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.double(), wanted[0], rtol=1e-4, atol=1e-5)


@pytest.fixture
def inputs(tiny_model):
    x = torch.randn(3, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    return (
        x,
        torch.tensor([10, 500, 990]),
        tiny_model.encode(["a small red heart", "one large green star", "a cyan moon"]),
    )


def gradients(unet, inputs, **how) -> tuple[list[Tensor], list[Tensor]]:
    unet.zero_grad()
    with Capture(bare(unet), ROWS, 7, **how) as seen:
        out = unet(*inputs).sample
    assert bool(seen._unfused) == bool(how)
    maps = seen.maps()
    weight = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))
    (out.pow(2).mean() + (weight * maps).sum()).backward()
    return [out, maps, *seen.layers()], [p.grad.clone() for p in unet.parameters()]


def test_a_unet_gives_the_same_output_maps_and_gradients(tiny_model, inputs) -> None:
    unet = tiny_model.clone().denoiser.requires_grad_(True)
    (seen, plainly), (unfused, fast) = (
        gradients(unet, inputs),
        gradients(unet, inputs, unfused=True),
    )
    for a, b in zip(unfused, seen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for (name, _), a, b in zip(unet.named_parameters(), fast, plainly, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6, msg=name
        )
        if ".attn2.to_" in name and not name.endswith("bias"):
            assert a.abs().max() > 1e-6, name
    with torch.no_grad(), Capture(bare(unet), ROWS, 7, unfused=True) as seen:
        unet(*inputs)
    assert not seen.maps().requires_grad


def test_adapters_get_the_same_gradients(tiny_model, inputs) -> None:
    unet = tiny_model.clone().denoiser
    adapters = add_lora(unet, STABLE_DIFFUSION.lora_targets)
    for i, p in enumerate(
        adapters
    ):  # as after some steps: the second matrix of an adapter begins at zero
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(i))
    found = []
    for how in ({}, {"unfused": True}):
        with Capture(bare(unet), ROWS, 7, **how) as seen:
            out = unet(*inputs).sample
        assert bool(seen._unfused) == bool(how), "peft's layers are served, too"
        found.append(torch.autograd.grad(out.pow(2).mean() + seen.maps().pow(2).sum(), adapters))
    for a, b in zip(*found, strict=True):
        assert b.abs().max() > 1e-6
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)


def test_processors_are_what_they_were_even_after_an_error(tiny_model, inputs) -> None:
    unet, (x, t, context) = tiny_model.clone().denoiser, inputs
    before = dict(unet.attn_processors)
    with torch.no_grad():
        want = unet(x, t, context).sample
        with pytest.raises(RuntimeError), Capture(bare(unet), tokens=5, unfused=True):
            unet(x, t, context[..., :-1])
        assert all(unet.attn_processors[n] is p for n, p in before.items())
        with Capture(bare(unet), tokens=5, unfused=True):
            unet(x, t, context)
        assert torch.equal(unet(x, t, context).sample, want)


def test_a_mask_and_a_layer_that_was_not_called_are_errors(tiny_model, inputs) -> None:
    unet, (x, t, context) = tiny_model.clone().denoiser, inputs
    mask = torch.ones(3, context.shape[1], dtype=torch.bool)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="takes no mask"),
        Capture(bare(unet), tokens=5, unfused=True),
    ):
        unet(x, t, context, encoder_attention_mask=mask)
    with Capture(bare(unet), tokens=5, unfused=True) as seen:
        pass
    with pytest.raises(RuntimeError, match="not called"):
        seen.maps()


@pytest.mark.parametrize("how", ["custom processor", "norm", "checkpointing", "bfloat16"])
def test_layers_that_are_not_plain_are_left_as_they_are(tiny_model, inputs, how: str) -> None:
    class Other(AttnProcessor2_0):
        pass

    unet = tiny_model.clone().denoiser
    layers = [m for n, m in unet.named_modules() if n.endswith(".attn2")]
    assert all(map(Unfused.serves, layers))
    if how == "custom processor":
        unet.set_attn_processor(Other())
    elif how == "norm":
        layers[0].norm_cross = torch.nn.Identity()
        layers[0].norm_encoder_hidden_states = lambda states: states
    elif how == "checkpointing":
        unet.enable_gradient_checkpointing()
    else:
        unet.to(torch.bfloat16)
    x, t, context = (
        i.to(torch.bfloat16) if how == "bfloat16" and i.is_floating_point() else i for i in inputs
    )
    with torch.no_grad():
        before = unet(x, t, context).sample
        with Capture(bare(unet), tokens=5, unfused=True) as seen:
            during = unet(x, t, context).sample
    assert torch.equal(before, during)
    assert seen.maps().shape[1] == 5
