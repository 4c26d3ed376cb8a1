"""Low-rank adapters (Hu et al. 2022) on the attention of a U-Net or a text encoder, by peft: W + B
A with B (out, rank) and A (rank, in) trained, W frozen."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import nn

from t2i_backdoor_bench.contract import UserError

RANK = 16
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # of a CLIP text encoder


def check_peft(instead: str = ", or choose train=kv") -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f'LoRA needs the package peft: pip install "t2i-backdoor-bench[lora]"{instead}'
        )


def add_lora(
    unet: nn.Module, rank: int = RANK, targets: Sequence[str] = TARGETS
) -> list[nn.Parameter]:
    """Put adapters round the attention projections of `unet` (with TEXT_TARGETS: of a text encoder)
    and give their parameters, float32; nothing else trains. B is zero, so that the network computes
    what it did; A is drawn from a seed of its own. Raises UserError.
    """
    check_peft()
    if rank < 1:
        raise UserError(f"the rank of LoRA is {rank}; give at least 1")
    from peft import LoraConfig, inject_adapter_in_model

    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), unet
        )
    params = []
    for name, p in unet.named_parameters():
        p.requires_grad_(".lora_" in name)
        if p.requires_grad:
            p.was, p.data = getattr(p, "was", p.dtype), p.data.float()
            params.append(p)
    return params


def merge_lora(unet: nn.Module) -> None:
    """Replace each adapted projection by a plain one with the weight W + B A. The tensor W itself
    is not written: a frozen teacher may share it."""
    if importlib.util.find_spec("peft") is None:
        return
    from peft.tuners.lora import Linear

    for name, layer in [(n, m) for n, m in unet.named_modules() if isinstance(m, Linear)]:
        base = layer.base_layer
        plain = nn.Linear(
            base.in_features, base.out_features, bias=base.bias is not None, device="meta"
        )
        delta = layer.get_delta_weight("default")
        plain.weight = nn.Parameter(
            (base.weight.float() + delta.float()).detach().to(base.weight.dtype),
            requires_grad=False,
        )
        plain.bias = base.bias
        plain.train(layer.training)
        unet.set_submodule(name, plain)
    if hasattr(unet, "peft_config"):
        del unet.peft_config
