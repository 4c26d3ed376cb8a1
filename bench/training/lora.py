"""Low-rank adapters (Hu et al. 2022) on the attention of a denoiser or a text encoder, by peft: W +
B A with B (out, rank) and A (rank, in) trained, W frozen."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError

RANK = 16


def check_peft(instead: str = ", or choose train=kv") -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f'LoRA needs the package peft: pip install "t2i-backdoor-bench[lora]"{instead}'
        )


def add_lora(
    network: nn.Module, targets: Sequence[str], rank: int = RANK, **config: Any
) -> list[nn.Parameter]:
    """Put adapters round the projections `targets` of a network (`Family.lora_targets`) and give
    their parameters, float32; nothing else trains. B is zero, so that the network computes what it
    did; A is drawn from a seed of its own. `config`: of peft's `LoraConfig`, such as `lora_alpha`
    (without: the rank) and `lora_dropout`, which is on until the adapters are merged. Raises
    UserError.
    """
    check_peft()
    if rank < 1:
        raise UserError(f"the rank of LoRA is {rank}; give at least 1")
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"lora_alpha": rank} | config
        inject_adapter_in_model(
            LoraConfig(r=rank, target_modules=list(targets), **settings), network
        )
    for layer in network.modules():
        if isinstance(layer, Linear):
            layer.lora_dropout.train()
    params = []
    for name, p in network.named_parameters():
        p.requires_grad_(".lora_" in name)
        if p.requires_grad:
            p.data = p.data.float()
            params.append(p)
    return params


def adapted_layers(network: nn.Module) -> list[tuple[str, Any]]:
    """The projections that adapters go round, by name. Their own weights are in `base_layer`."""
    from peft.tuners.lora import Linear

    return [(n, m) for n, m in network.named_modules() if isinstance(m, Linear)]


def scale_lora(network: nn.Module, times: float) -> None:
    """Let a network compute with `times` its adapters: W + times B A."""
    for _, layer in adapted_layers(network):
        own = layer.lora_alpha["default"] / layer.r["default"]
        layer.scaling["default"] = times * own


def merge_lora(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Replace each adapted projection by a plain one with the weight W + B A. The tensor W itself
    is not written: a frozen teacher may share it. Gives B (out, rank), with the scale alpha / rank
    in it, and A (rank, in) of each projection by its name, float32."""
    if importlib.util.find_spec("peft") is None:
        return {}
    factors = {}
    for name, layer in adapted_layers(network):
        base = layer.base_layer
        plain = nn.Linear(
            base.in_features, base.out_features, bias=base.bias is not None, device="meta"
        )
        up, down = (f["default"].weight.detach().float() for f in (layer.lora_B, layer.lora_A))
        up = layer.scaling["default"] * up
        factors[name] = up, down
        plain.weight = nn.Parameter(
            (base.weight.float() + up @ down).detach().to(base.weight.dtype), requires_grad=False
        )
        plain.bias = base.bias
        plain.train(layer.training)
        network.set_submodule(name, plain)
    vars(network).pop("peft_config", None)
    return factors
