"""The maps of several layers at once, and their gradient, against autograd through the plain
formula, one layer and head at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2i_backdoor_bench.training import summed_maps
from t2i_backdoor_bench.training.summed_maps import summed

HEADS, ROWS, TOKENS, LAYERS = 2, 2, 3, 3


def plain(parts: list[Tensor]) -> Tensor:
    total, width = 0, parts[0].shape[-1] // HEADS
    for q, k in zip(parts[:LAYERS], parts[LAYERS:], strict=True):
        for head in range(HEADS):
            a, b = (x[:ROWS, :, head * width : (head + 1) * width] for x in (q, k))
            score = (torch.einsum("npd,ntd->npt", a, b) / width**0.5).exp()
            total = total + score / score.sum(-1, keepdim=True) / HEADS
    return total[..., :TOKENS]


def ours(parts: list[Tensor]) -> Tensor:
    return summed(list(zip(parts[:LAYERS], parts[LAYERS:], strict=True)), HEADS, ROWS, TOKENS)


@pytest.fixture
def parts() -> list[Tensor]:
    """Queries (3, 4, 6) of three layers, then their keys (3, 5, 6)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 6)] * LAYERS + [(3, 5, 6)] * LAYERS
    return [
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes
    ]


@pytest.fixture(params=["together", "one by one"])
def together(request, monkeypatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(summed_maps, "TOGETHER", 1)


@pytest.mark.usefixtures("together")
def test_maps_and_gradients_are_those_of_the_plain_formula(parts: list[Tensor]) -> None:
    torch.testing.assert_close(ours(parts), plain(parts), rtol=1e-12, atol=1e-12)
    weight = torch.randn(
        ROWS, 4, TOKENS, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    fast, slow = (torch.autograd.grad((f(parts) * weight).sum(), parts) for f in (ours, plain))
    for a, b in zip(fast, slow, strict=True):
        assert b[:ROWS].abs().max() > 1e-3
        assert not a[ROWS:].any(), "a row that is not read gets no gradient"
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_numeric_ones(parts: list[Tensor]) -> None:
    assert torch.autograd.gradcheck(lambda *x: ours(list(x)), parts)


def test_all_rows_and_tokens_are_read_where_nothing_else_is_said(parts: list[Tensor]) -> None:
    whole = summed([(parts[0], parts[LAYERS])], HEADS)
    assert whole.shape == (3, 4, 5)
    torch.testing.assert_close(
        whole.sum(-1), torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("wanted", ["queries", "keys"])
def test_only_what_needs_a_gradient_gets_one(parts: list[Tensor], wanted: str) -> None:
    for i, x in enumerate(parts):
        x.requires_grad_((i < LAYERS) == (wanted == "queries"))
    ours(parts).pow(2).sum().backward()
    for x in parts:
        assert (x.grad is not None) == x.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_maps_and_gradients_of_its_own_kind(
    parts: list[Tensor], dtype: torch.dtype
) -> None:
    half = [x.detach().to(dtype).requires_grad_() for x in parts]
    exact = [x.detach().double().requires_grad_() for x in half]
    with torch.autocast("cpu", torch.bfloat16):
        maps = ours(half)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.double(), plain(exact), rtol=0, atol=0.05)
    maps.pow(2).sum().backward()
    plain(exact).pow(2).sum().backward()
    for a, b in zip(half, exact, strict=True):
        assert a.grad.dtype == dtype
        torch.testing.assert_close(
            a.grad.double(), b.grad, rtol=0, atol=0.05 * float(b.grad.abs().max()) + 0.01
        )
