"""Maps of text tokens in joint attention, where text and picture share one softmax: of its matrix,
which does not fit into memory, the columns of some text tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# scores that are computed at once: at 1024 px one layer and row has 430 million of them
TOGETHER = 2**23

Layer = tuple[Tensor, Tensor, Tensor]


def summed_joint(
    layers: Sequence[Layer], heads: int, rows: int | None = None, tokens: int | None = None
) -> Tensor:
    """The sum over layers of one size of the text columns of softmax(q [k_text, k_picture]^T /
    sqrt(d)), mean over heads: (rows, queries, tokens), float32 or wider.

    layers: of each, queries (batch, queries, heads * d), keys of text (batch, all tokens, heads *
    d), and the other keys of the same softmax (batch, pixels, heads * d). Of the result only the
    first `rows` rows and `tokens` tokens are kept; the softmax is over all keys, and what a query
    pays to the picture is missing from the sum over tokens. The gradient is of first order. A chunk
    of queries is computed at a time, forward and backward; beside the result, one number a query
    and head is kept: the logarithm of the sum of the exponentials of its scores.
    """
    q, text, picture = layers[0]
    keys = text.shape[1] + picture.shape[1]
    many = max(1, TOGETHER // (len(q[:rows]) * heads * q.shape[1] * keys))
    parts = [layers[i : i + many] for i in range(0, len(layers), many)]
    maps = [
        _Joint.apply(heads, rows, tokens, *(x for side in zip(*part, strict=True) for x in side))
        for part in parts
    ]
    return sum(maps[1:], maps[0])


class _Joint(torch.autograd.Function):
    """P = exp(S - L), S = Q K^T / sqrt(d), L = log sum over all keys of exp S; M = sum over layers
    of the mean over heads of P, of the kept columns. With G = dM / heads, 0 where a key is not
    kept: dS = P * (G - sum over keys of P * G), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d)."""

    @staticmethod
    def forward(
        ctx: Any, heads: int, rows: int | None, tokens: int | None, *given: Tensor
    ) -> Tensor:
        many = len(given) // 3
        ctx.batch = len(given[0])
        with torch.autocast(given[0].device.type, enabled=False):
            q, text, picture = (
                torch.stack(
                    [x[:rows].unflatten(-1, (heads, -1)).transpose(1, 2) for x in given[i:][:many]]
                )
                for i in range(0, 3 * many, many)
            )  # (layers, rows, heads, queries or keys, d)
            ctx.shape, ctx.scale, ctx.words = q.shape[:3], q.shape[-1] ** -0.5, text.shape[3]
            ctx.kept = ctx.words if tokens is None else min(tokens, ctx.words)
            q, keys = q.flatten(0, 2), torch.cat([text, picture], 3).flatten(0, 2)
            wide = torch.promote_types(q.dtype, torch.float32)
            sums = q.new_empty(q.shape[:2], dtype=wide)
            maps = q.new_empty((ctx.shape[1], q.shape[1], ctx.kept), dtype=wide)
            for at in _chunks(q, keys):
                scores = _scores(q[:, at], keys, ctx.scale).to(wide)
                sums[:, at] = scores.logsumexp(-1)
                probs = (scores[..., : ctx.kept] - sums[:, at, None]).exp_()
                maps[:, at] = probs.unflatten(0, ctx.shape).sum((0, 2)) / heads
        ctx.save_for_backward(q, keys, sums)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, keys, sums = ctx.saved_tensors
        many, words = ctx.shape[0], ctx.words
        wanted = ctx.needs_input_grad[3:]
        for_q, for_keys = any(wanted[:many]), any(wanted[many:])
        into_q = torch.empty_like(q) if for_q else None
        into_keys = torch.zeros_like(keys) if for_keys else None
        start = q.new_empty(1)
        for at in _chunks(q, keys):
            scores = _scores(q[:, at], keys, ctx.scale).to(sums.dtype)
            probs = (scores - sums[:, at, None]).exp_()
            by_layer = probs.unflatten(0, ctx.shape)
            weighted = by_layer[..., : ctx.kept] * (grad[:, at] / ctx.shape[2])[:, None]
            change = by_layer * -weighted.sum(-1, keepdim=True)
            change[..., : ctx.kept] += weighted
            change = change.flatten(0, 2).to(q.dtype)
            if into_q is not None:
                into_q[:, at] = torch.baddbmm(start, change, keys, beta=0, alpha=ctx.scale)
            if into_keys is not None:
                into_keys.baddbmm_(change.transpose(1, 2), q[:, at], alpha=ctx.scale)
        found = [
            _spread(ctx, into_q, many),
            _spread(ctx, None if into_keys is None else into_keys[:, :words], many),
            _spread(ctx, None if into_keys is None else into_keys[:, words:], many),
        ]
        return None, None, None, *(x for side in found for x in side)


def _chunks(q: Tensor, keys: Tensor) -> Iterator[slice]:
    """Queries that are computed at once."""
    many = max(1, TOGETHER // (len(q) * keys.shape[1]))
    for first in range(0, q.shape[1], many):
        yield slice(first, first + many)


def _scores(q: Tensor, keys: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(q.new_empty(1), q, keys.transpose(1, 2), beta=0, alpha=scale)


def _spread(ctx: Any, grad: Tensor | None, many: int) -> Sequence[Tensor | None]:
    """(layers * rows * heads, s, d) -> of each layer (batch, s, heads * d), zero for the rows that
    were not read."""
    if grad is None:
        return [None] * many
    rows = ctx.shape[1]
    grad = grad.unflatten(0, ctx.shape).transpose(2, 3).flatten(3)
    if rows == ctx.batch:
        return grad.unbind()
    whole = grad.new_zeros(many, ctx.batch, *grad.shape[2:])
    whole[:, :rows] = grad
    return whole.unbind()
