"""How large a model is and how much one pass of it takes, counted from its configuration. No
weights are loaded: the networks are built without memory, on torch's device "meta"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from t2i_backdoor_bench.models.catalog import picture_side
from t2i_backdoor_bench.models.families.family import TRAIN, Family
from t2i_backdoor_bench.models.families.known import family_of
from t2i_backdoor_bench.models.trust import layout_of, locate, read_json

RANK, TOKENS = 16, 77  # of adapters, and of a text where the configuration does not say
KEPT = 34  # numbers a token and unit of width that one transformer block keeps (Korthikanti 2022)


@dataclass(frozen=True)
class Size:
    """Numbers of parameters, of which those of each `trained` part of the denoiser ("lora": of
    adapters of rank 16). Of one pass of the denoiser over one picture: `flops`, and `kept`, how
    many numbers stay for the backward pass."""

    denoiser: int
    encoders: int
    autoencoder: int
    trained: dict[str, int]
    flops: float
    kept: float

    @property
    def largest(self) -> int:
        return max(self.denoiser, self.encoders)


def count(source: str) -> Size:
    """The size of a base, a folder or a hub id. Raises UserError."""
    folder = locate(source)
    layout, family = layout_of(folder), family_of(folder)
    denoiser = _empty(folder, layout.denoiser)
    parts = {
        name: _numbers(_empty(folder, name)) for name in (*layout.encoders, layout.autoencoder)
    }
    side = picture_side(source)
    flops, kept = measure(denoiser, side // 8)
    return Size(
        _numbers(denoiser),
        sum(parts[name] for name in layout.encoders),
        parts[layout.autoencoder],
        {part: _trained(denoiser, family, part) for part in TRAIN},
        flops,
        kept,
    )


def _empty(folder: Path, part: str) -> nn.Module:
    """A part of a checked folder, without memory."""
    config = read_json(folder / part / "config.json")
    with torch.device("meta"):
        if name := config.get("_class_name"):
            # by getattr: the trust rules have checked the name
            kind = getattr(diffusers, name)
            return kind.from_config({k: v for k, v in config.items() if not k.startswith("_")})
        kind = getattr(transformers, config["architectures"][0])  # checked in the same way
        return kind(transformers.AutoConfig.for_model(**config))


def _numbers(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _trained(denoiser: nn.Module, family: Family, part: str) -> int:
    if part != "lora":
        found = denoiser.named_parameters()
        return sum(p.numel() for name, p in found if family.is_trained(name, part))
    layers = [
        layer
        for name, layer in denoiser.named_modules()
        if isinstance(layer, nn.Linear) and any(name.endswith(t) for t in family.lora_targets)
    ]
    return sum(RANK * (layer.in_features + layer.out_features) for layer in layers)


def measure(denoiser: nn.Module, side: int) -> tuple[float, float]:
    """FLOPs of a pass over one picture with latents of this side, and the numbers that it keeps for
    the backward pass. Of a U-Net both are counted; of a transformer they follow from parameters and
    tokens."""
    config = dict(vars(denoiser)["_internal_dict"])
    if not isinstance(denoiser, diffusers.UNet2DConditionModel):
        tokens = (side // int(config.get("patch_size") or 2)) ** 2 + 2 * TOKENS
        width = int(config.get("num_attention_heads", 1)) * int(config.get("attention_head_dim", 1))
        blocks = int(config.get("num_layers", 1)) + int(config.get("num_single_layers") or 0)
        attention = 4.0 * blocks * tokens**2 * width
        flops = 2.0 * _numbers(denoiser) * tokens + attention
        return flops, KEPT * tokens * width * blocks / 2
    kept, seen = 0, []

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        base = tensor._base if tensor._is_view() else tensor
        if not isinstance(base, nn.Parameter) and all(base is not s for s in seen):
            seen.append(base)
            kept += base.numel()
        return tensor

    given = _inputs(config, side)
    denoiser.requires_grad_(True)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        FlopCounterMode(display=False) as counter,
    ):
        denoiser(**given)
    return float(counter.get_total_flops()), float(kept)


def _inputs(config: dict[str, Any], side: int) -> dict[str, Any]:
    """What a U-Net is given for one picture, without memory."""
    meta = torch.device("meta")
    given: dict[str, Any] = {
        "sample": torch.zeros(1, config["in_channels"], side, side, device=meta),
        "timestep": torch.zeros(1, device=meta),
        "encoder_hidden_states": torch.zeros(1, TOKENS, config["cross_attention_dim"], device=meta),
    }
    if config.get("time_cond_proj_dim"):
        given["timestep_cond"] = torch.zeros(1, config["time_cond_proj_dim"], device=meta)
    if config.get("addition_embed_type") == "text_time":
        ids = 6 * config["addition_time_embed_dim"]
        pooled = config["projection_class_embeddings_input_dim"] - ids
        given["added_cond_kwargs"] = {
            "text_embeds": torch.zeros(1, pooled, device=meta),
            "time_ids": torch.zeros(1, 6, device=meta),
        }
    return given
