"""The text columns of joint attention, and their gradient, against autograd through the whole
softmax, one layer and head at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2i_backdoor_bench.training import joint_maps
from t2i_backdoor_bench.training.joint_maps import summed_joint

HEADS, ROWS, TOKENS, LAYERS = 2, 2, 3, 3
PIXELS, WORDS, ASKING = 6, 5, 4


def plain(parts: list[Tensor]) -> Tensor:
    total, width = 0, parts[0].shape[-1] // HEADS
    for q, text, picture in zip(*(parts[i::3] for i in range(3)), strict=True):
        keys = torch.cat([text, picture], 1)
        for head in range(HEADS):
            a, b = (x[:ROWS, :, head * width : (head + 1) * width] for x in (q, keys))
            score = (torch.einsum("npd,ntd->npt", a, b) / width**0.5).exp()
            total = total + score / score.sum(-1, keepdim=True) / HEADS
    return total[..., :TOKENS]


def ours(parts: list[Tensor]) -> Tensor:
    layers = list(zip(*(parts[i::3] for i in range(3)), strict=True))
    return summed_joint(layers, HEADS, ROWS, TOKENS)


@pytest.fixture
def parts() -> list[Tensor]:
    """Of three layers queries (3, 4, 6), keys of text (3, 5, 6) and of the picture (3, 6, 6)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, ASKING, 6), (3, WORDS, 6), (3, PIXELS, 6)] * LAYERS
    return [
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes
    ]


@pytest.fixture(params=[2**23, 300, 1], ids=["at once", "in chunks", "one by one"])
def together(request, monkeypatch) -> None:
    monkeypatch.setattr(joint_maps, "TOGETHER", request.param)


@pytest.mark.usefixtures("together")
def test_maps_and_gradients_are_those_of_the_whole_softmax(parts: list[Tensor]) -> None:
    torch.testing.assert_close(ours(parts), plain(parts), rtol=1e-12, atol=1e-12)
    weight = torch.randn(
        ROWS, ASKING, TOKENS, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    fast, slow = (torch.autograd.grad((f(parts) * weight).sum(), parts) for f in (ours, plain))
    for a, b in zip(fast, slow, strict=True):
        assert b[:ROWS].abs().max() > 1e-3
        assert not a[ROWS:].any(), "a row that is not read gets no gradient"
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_numeric_ones(parts: list[Tensor]) -> None:
    assert torch.autograd.gradcheck(lambda *x: ours(list(x)), parts)


@pytest.mark.parametrize("some", range(3), ids=["queries", "text", "picture"])
def test_what_needs_no_gradient_gets_none(parts: list[Tensor], some: int) -> None:
    for i, p in enumerate(parts):
        p.requires_grad_(i % 3 == some)
    ours(parts).sum().backward()
    assert [p.grad is not None for p in parts] == [i % 3 == some for i in range(3 * LAYERS)]


def test_the_whole_matrix_is_never_in_memory(monkeypatch) -> None:
    """Of one layer of 256 tokens of a picture and 40 of text, no more scores at once than the
    limit, forward and backward."""
    sizes: list[int] = []
    real = joint_maps._scores

    def watched(*given):
        out = real(*given)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(joint_maps, "_scores", watched)
    monkeypatch.setattr(joint_maps, "TOGETHER", 20_000)
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 256, 8), (1, 40, 8), (1, 256, 8))
    layer = tuple(torch.randn(s, generator=generator, requires_grad=True) for s in shapes)
    maps = summed_joint([layer], HEADS, tokens=TOKENS)
    assert maps.shape == (1, 256, TOKENS)
    maps.sum().backward()
    assert max(sizes) <= 20_000
    assert sum(sizes) == 2 * HEADS * 256 * 296
