"""Attention that gives its probabilities beside its output: where both are needed, on a CPU,
cheaper than the fused kernel and the probabilities computed once more."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# a probability below is 0: what is multiplied with it would be a denormal number, which takes a CPU
# ten times as long
NOTHING = 1e-20


class Unfused:
    """A processor of a cross-attention layer. After a call, `probs` is the layer's probabilities of
    the first `rows` rows and `tokens` tokens, mean over heads: (rows, pixels, tokens),
    differentiable, of first order."""

    def __init__(self, rows: int | None, tokens: int | None) -> None:
        self.rows, self.tokens = rows, tokens
        self.probs: Tensor | None = None

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError("unfused cross-attention takes no mask: capture without `unfused`")
        q, k, v = (
            attn.to_q(hidden_states),
            attn.to_k(encoder_hidden_states),
            attn.to_v(encoder_hidden_states),
        )
        out, self.probs = _Attend.apply(self.rows, self.tokens, attn.heads, q, k, v)
        return attn.to_out[1](attn.to_out[0](out))

    def result(self) -> Tensor:
        """`probs`. Raises RuntimeError before the layer was called."""
        if self.probs is None:
            raise RuntimeError(
                "a cross-attention layer was not called: its maps cannot be recorded"
            )
        return self.probs

    @staticmethod
    def serves(attn: nn.Module) -> bool:
        """Whether a layer does what this processor does: the standard attention of diffusers,
        without a norm or residual of its own, on a CPU in float32 or wider."""
        return (
            isinstance(attn, Attention)
            and type(attn.processor) is AttnProcessor2_0
            and attn.to_q.weight.device.type == "cpu"
            and attn.to_q.weight.dtype in (torch.float32, torch.float64)
            and attn.spatial_norm is None
            and attn.group_norm is None
            and attn.norm_q is None
            and attn.norm_k is None
            and not attn.norm_cross
            and not attn.residual_connection
            and attn.rescale_output_factor == 1
        )


class _Attend(torch.autograd.Function):
    """O = P V and M, the mean over heads of P, with P = softmax(S), S = Q K^T / sqrt(d). dP = dO
    V^T + dM / heads, dS = P * (dP - sum over tokens of P * dP), dQ = dS K / sqrt(d), dK = dS^T Q /
    sqrt(d), dV = P^T dO.

    Q, K, V and O are (batch, pixels or tokens, heads * d); M is (rows, pixels, tokens), of the
    first rows and tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: int | None, tokens: int | None, heads: int, *qkv: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (_split(x, heads) for x in qkv)
        ctx.heads, ctx.scale, ctx.kept = (
            heads,
            q.shape[-1] ** -0.5,
            (slice(rows), ..., slice(tokens)),
        )
        scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=ctx.scale)
        probs = F.threshold_(scores.softmax(-1), NOTHING, 0.0)
        ctx.save_for_backward(q, k, v, probs)
        ctx.set_materialize_grads(False)
        return _join(torch.bmm(probs, v), heads), probs.unflatten(0, (-1, heads))[ctx.kept].sum(
            1
        ).div_(heads)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, into_out: Tensor | None, into_maps: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, probs = ctx.saved_tensors
        for_q, for_k, for_v = ctx.needs_input_grad[3:]
        into_v = None
        if into_out is None:
            change = torch.zeros_like(probs)
        else:
            into_out = _split(into_out, ctx.heads)
            change = torch.bmm(into_out, v.transpose(1, 2))
            into_v = _join(torch.bmm(probs.transpose(1, 2), into_out), ctx.heads) if for_v else None
        if into_maps is not None:
            change.unflatten(0, (-1, ctx.heads))[ctx.kept] += (into_maps / ctx.heads).unsqueeze(1)
        change = torch._softmax_backward_data(change, probs, -1, probs.dtype)
        start = q.new_empty(1)
        into_q = (
            _join(torch.baddbmm(start, change, k, beta=0, alpha=ctx.scale), ctx.heads)
            if for_q
            else None
        )
        into_k = (
            _join(
                torch.baddbmm(start, change.transpose(1, 2), q, beta=0, alpha=ctx.scale), ctx.heads
            )
            if for_k
            else None
        )
        return None, None, None, into_q, into_k, into_v


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, s, heads * d) -> (batch * heads, s, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _join(x: Tensor, heads: int) -> Tensor:
    """(batch * heads, s, d) -> (batch, s, heads * d)."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
