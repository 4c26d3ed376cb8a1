"""Attention maps of many layers at once, from queries and keys: memory and calls are what they
cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# probabilities of layers that are computed at once: small layers cost their calls, large ones their
# memory
TOGETHER = 2**23


def summed(
    pairs: Sequence[tuple[Tensor, Tensor]],
    heads: int,
    rows: int | None = None,
    tokens: int | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The sum over layers of one size of softmax(q k^T / sqrt(d)), mean over heads: (rows, pixels,
    tokens), float32 or wider.

    pairs: of each layer, queries (batch, pixels, heads * d) and keys (batch, all tokens, heads *
    d). Of the result only the first `rows` rows and `tokens` tokens are kept; the softmax is over
    all tokens. `bias` (batch, all tokens) is added to the scores of every pixel: a large negative
    number where a token is masked. The gradient is of first order.
    """
    q, k = pairs[0]
    many = max(1, TOGETHER // (len(q[:rows]) * heads * q.shape[1] * k.shape[1]))
    parts = [pairs[i : i + many] for i in range(0, len(pairs), many)]
    maps = [
        _Summed.apply(heads, rows, tokens, bias, *(q for q, _ in part), *(k for _, k in part))
        for part in parts
    ]
    return sum(maps[1:], maps[0])


class _Summed(torch.autograd.Function):
    """P = softmax(Q K^T / sqrt(d)), M = sum over layers of the mean over heads of P. With G = dM /
    heads, 0 where a token is not kept: dS = P * (G - sum over tokens of P * G), dQ = dS K /
    sqrt(d), dK = dS^T Q / sqrt(d)."""

    @staticmethod
    def forward(
        ctx: Any,
        heads: int,
        rows: int | None,
        tokens: int | None,
        bias: Tensor | None,
        *queries_and_keys: Tensor,
    ) -> Tensor:
        layers = len(queries_and_keys) // 2
        ctx.batch, ctx.tokens = len(queries_and_keys[0]), tokens
        with torch.autocast(queries_and_keys[0].device.type, enabled=False):
            by_head = [
                x[:rows].unflatten(-1, (heads, -1)).transpose(1, 2) for x in queries_and_keys
            ]
            q, k = (
                torch.stack(by_head[:layers]),
                torch.stack(by_head[layers:]),
            )  # (layers, rows, heads, pixels or tokens, d)
            ctx.shape, ctx.scale = q.shape[:3], q.shape[-1] ** -0.5
            q, k = q.flatten(0, 2), k.flatten(0, 2)
            scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=ctx.scale)
            if bias is not None:
                scores.unflatten(0, ctx.shape).add_(bias[:rows, None, None].to(scores))
            probs = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32))
        ctx.save_for_backward(q, k, probs)
        return probs.unflatten(0, ctx.shape)[..., :tokens].sum((0, 2)) / heads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, probs = ctx.saved_tensors
        by_layer = probs.unflatten(0, ctx.shape)
        weighted = by_layer[..., : ctx.tokens] * (grad * (ctx.scale / ctx.shape[2]))[:, None]
        change = by_layer * -weighted.sum(-1, keepdim=True)
        change[..., : ctx.tokens] += weighted
        change = change.flatten(0, 2).to(q.dtype)
        wanted, layers = ctx.needs_input_grad[4:], ctx.shape[0]
        into_q = _spread(ctx, torch.bmm(change, k)) if any(wanted[:layers]) else [None] * layers
        into_k = (
            _spread(ctx, torch.bmm(change.transpose(1, 2), q))
            if any(wanted[layers:])
            else [None] * layers
        )
        return None, None, None, None, *into_q, *into_k


def _spread(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    """(layers * rows * heads, s, d) -> of each layer (batch, s, heads * d), zero for the rows that
    were not read."""
    layers, rows, heads = ctx.shape
    grad = grad.unflatten(0, ctx.shape).transpose(2, 3)
    if rows == ctx.batch:
        return grad.flatten(3).unbind()
    whole = grad.new_zeros(layers, ctx.batch, grad.shape[2], heads * grad.shape[-1])
    whole[:, :rows].unflatten(-1, (heads, -1)).copy_(grad)
    return whole.unbind()


def minmax(maps: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each map to [0, 1] over its last two dimensions. A constant map becomes zeros, not
    0/0."""
    low = maps.amin((-2, -1), keepdim=True)
    span = maps.amax((-2, -1), keepdim=True) - low
    return (maps - low) / (span + eps)
