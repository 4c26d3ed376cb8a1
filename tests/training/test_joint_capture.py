"""Maps of text tokens in joint attention: against a float64 softmax of the very queries and keys
that the attention of each block was given, with gradients, and without a trace in the output."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import PROMPTS
from tiny_joint import JOINT, joint_model
from torch import Tensor

from t2i_backdoor_bench.training.capture import Capture

PIXELS = 16
GIVEN = {"sd3": 3, "sd35": 3, "sd3_without_t5": 3, "flux_dev": 4, "flux_schnell": 4}  # blocks


@pytest.fixture(scope="module", params=JOINT)
def model(request, tmp_path_factory):
    return joint_model(tmp_path_factory.mktemp(request.param), request.param)


def asked(model):
    told = model.condition([f"mignneko {p}" for p in PROMPTS])
    x = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([40.0, 500.0, 990.0]), told


def slow_maps(model, monkeypatch, rows: slice) -> tuple[Tensor, Tensor]:
    """What the tokens of the picture, and those of text, pay to text tokens, mean over heads,
    summed over blocks: float64 (rows, pixels or tokens, tokens)."""
    calls, real = [], F.scaled_dot_product_attention

    def kept(query, key, value, *more, **how):
        calls.append((query, key))
        return real(query, key, value, *more, **how)

    x, t, told = asked(model)
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", kept)
        model.denoise(x, t, told)
    words = told.states.shape[1]
    first = 0 if model.family.name == "flux" else PIXELS  # of the text among all keys
    text = slice(first, first + words)
    picture = slice(words, None) if model.family.name == "flux" else slice(0, PIXELS)
    found = []
    for query, key in calls:
        if key.shape[2] == PIXELS:  # attention of the picture to itself, of SD 3.5-medium
            assert query.shape[2] == PIXELS
            continue
        q, k = query[rows].double(), key[rows].double()
        probs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
        found.append((probs[:, picture, text], probs[:, text, text]))
    assert len(found) == len(model.text_layers.layers) == GIVEN[model.name]
    return tuple(sum(x) for x in zip(*found, strict=True))


def test_maps_are_the_text_columns_of_the_joint_softmax(model, monkeypatch) -> None:
    with torch.no_grad():
        wanted, between = slow_maps(model, monkeypatch, slice(None))
        x, t, told = asked(model)
        with Capture(model, text=True) as seen:
            model.denoise(x, t, told)
        with Capture(model, over_text=True) as over:
            model.denoise(x, t, told)
    maps = seen.maps().flatten(2).transpose(1, 2)
    torch.testing.assert_close(maps.double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.between().double(), between, rtol=0, atol=1e-5)
    assert wanted.std(1).max() > 1e-3, "the tokens of the picture must differ"
    share = wanted.sum(-1) / len(seen)
    assert 0.1 < float(share.mean()) < 0.95, "text and picture must share the attention"
    total = over.maps().sum(1) / len(over)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)
    first = next(iter(seen.probs))
    raw, normal = seen.probs[first], over.probs[first]
    assert (raw.sum(-1) < 0.999).all()
    assert normal.shape == raw.shape


def test_the_output_is_the_same_to_the_bit(model) -> None:
    x, t, told = asked(model)
    with torch.no_grad():
        before = model.denoise(x, t, told)
        with Capture(model, 2, 5, text=True) as seen:
            during = model.denoise(x, t, told)
        assert torch.equal(before, during)
        assert torch.equal(before, model.denoise(x, t, told))
        with Capture(model, text=True) as whole:
            model.denoise(x, t, told)
    assert seen.maps().shape == (2, 5, 4, 4)
    torch.testing.assert_close(seen.maps(), whole.maps()[:2, :5])
    torch.testing.assert_close(seen.between(), whole.between()[:2, :, :5])


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_gradients_are_those_of_the_whole_softmax(model, monkeypatch, again: bool) -> None:
    student = model.clone()
    student.denoiser.requires_grad_(True)
    weight = torch.randn(2, PIXELS, 7, generator=torch.Generator().manual_seed(1))

    def gradients(maps: Tensor, more: Tensor) -> list[Tensor]:
        student.denoiser.zero_grad()
        ((weight.to(maps) * maps[:, :, :7]).sum() + more[:, 1:7, 2:7].square().sum()).backward()
        return [
            torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for p in student.denoiser.parameters()
        ]

    slow = gradients(*slow_maps(student, monkeypatch, slice(2)))
    if again:
        student.denoiser.enable_gradient_checkpointing()
        student.denoiser.train()
    x, t, told = asked(student)
    with Capture(student, 2, 7, text=True) as seen:
        student.denoise(x, t, told)
    fast = gradients(seen.maps().flatten(2).transpose(1, 2), seen.between())
    for (name, _), a, b in zip(student.denoiser.named_parameters(), fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)
    assert sum(int(g.abs().max() > 1e-4) for g in slow) > 20


def test_a_second_attention_of_the_picture_to_itself_is_not_read(tmp_path) -> None:
    model = joint_model(tmp_path, "sd35")
    inner = [n for n, _ in model.denoiser.named_modules() if n.endswith(".attn2")]
    assert len(inner) == 2
    assert not any("attn2" in name for name in model.text_layers.layers)
    names = [n for n, _ in model.denoiser.named_parameters() if ".attn2." in n]
    assert names
    for part in ("cross", "kv"):
        assert not any(model.family.is_trained(n, part) for n in names)
    assert all(model.family.is_trained(n, "noncross") for n in names)
