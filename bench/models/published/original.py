"""Checkpoints in one file in the original layout (`model.diffusion_model...`), by the names that
diffusers' own conversion gives their tensors. The same conversion of tensors without memory says
beforehand whether all find a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import shapes_of
from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.families.folders import SDXL, STABLE_DIFFUSION
from t2i_backdoor_bench.models.published.brought import networks_of, put
from t2i_backdoor_bench.models.published.places import UNUSED, Places, check_fit, plain
from t2i_backdoor_bench.models.trust import read_json

DENOISER, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
# of the text encoders: the prefix of each in the layout of CLIP, and in that of open_clip
CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
# what is no weight of a network that draws: schedules, averages, and the head of CLIP
BESIDE = ("model_ema.", "betas", "alphas_", "sqrt_", "log_one", "posterior_", "logvar")
NO_WEIGHTS = ("logit_scale", "text_projection", "visual.")


@dataclass(frozen=True)
class Original:
    """One file, with the parts that it has."""

    path: Path
    file: Path
    places: Places
    parts: tuple[str, ...]
    kind: str = "a checkpoint in the original layout"
    scale: float = 1.0

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def only(self, parts: Sequence[str]) -> Original:
        return replace(self, parts=tuple(p for p in self.parts if p in parts))

    def apply(self, pipe: Any, family: Family) -> None:
        networks = networks_of(pipe, family)
        with safe_open(self.file, "pt") as opened:
            state = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
        found = converted(state, self.places)
        for part, tensors in ((p, found[p]) for p in self.parts):
            put(networks[part], tensors.items())


def is_original(names: list[str]) -> bool:
    return any(name.startswith(DENOISER) for name in names)


def read_original(path: Path, file: Path, places: Places) -> Original:
    """A checkpoint whose tensors all find their place in a base. Raises UserError."""
    if places.layout.pipeline not in (STABLE_DIFFUSION.pipeline, SDXL.pipeline):
        raise UserError(
            f"{file} is a checkpoint in the original layout of a U-Net, and {places.base} is"
            f" {places.layout.family}: give a base of its family"
        )
    shapes = shapes_of(file)
    empty = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    strange = [k for k in empty if not k.startswith((*known_prefixes(), *BESIDE))]
    if strange:
        raise UserError(
            f"{file}: {len(strange)} of {len(empty)} keys are of no part of a checkpoint in the"
            f" original layout (such as {strange[0]}): take them out, or convert the file"
        )
    found = converted(empty, places)
    for part, tensors in found.items():
        named = {name: tuple(t.shape) for name, t in tensors.items()}
        check_fit(str(file), named, part, places, whole=True)
    return Original(path, file, places, tuple(found))


def known_prefixes() -> tuple[str, ...]:
    return (DENOISER, AUTOENCODER, *CLIP, *OPEN_CLIP)


def converted(state: Mapping[str, Tensor], places: Places) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint by part and plain name, in float32 or as they are."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    def config(part: str) -> dict[str, Any]:
        return read_json(places.folder / part / "config.json")

    layout, found = places.layout, {}
    try:
        found[layout.denoiser] = convert_ldm_unet_checkpoint(
            of(state, DENOISER, keep=True), config(layout.denoiser)
        )
        if inner := of(state, AUTOENCODER, keep=True):
            found[layout.autoencoder] = convert_ldm_vae_checkpoint(
                inner, config(layout.autoencoder)
            )
        for part, number in zip(layout.encoders, range(2), strict=False):
            if encoder := encoder_of(state, number, config(part)):
                found[part] = encoder
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"the checkpoint does not convert to the layout of {places.base}"
            f" ({type(error).__name__}: {str(error)[:100]}): it is of another model; give the base"
            " that it was made from"
        ) from None
    return {
        part: {plain(k): v for k, v in tensors.items() if not UNUSED.fullmatch(k)}
        for part, tensors in found.items()
    }


def of(state: Mapping[str, Tensor], prefix: str, keep: bool = False) -> dict[str, Tensor]:
    cut = 0 if keep else len(prefix)
    return {k[cut:]: v for k, v in state.items() if k.startswith(prefix)}


def encoder_of(
    state: Mapping[str, Tensor], number: int, config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The text encoder of this number: 0 is the only one or SDXL's first, 1 is SDXL's second."""
    for prefix in CLIP[:2] if number == 0 else ():
        if found := of(state, prefix):
            return found
    found = of(state, OPEN_CLIP[number])
    return from_open_clip(found, projects=number == 1) if found else {}


def from_open_clip(state: Mapping[str, Tensor], projects: bool) -> dict[str, Tensor]:
    """A text encoder of open_clip in the names of transformers. Q, K and V lie in one tensor."""
    renamed = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    single = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    found = {}
    for key, tensor in state.items():
        if key in single:
            found[single[key]] = tensor
        elif key == "text_projection" and projects:
            found["text_projection.weight"] = tensor.T.contiguous()
        elif key.startswith("transformer.resblocks."):
            layer, _, rest = key.removeprefix("transformer.resblocks.").partition(".")
            begin = f"encoder.layers.{layer}."
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for way, part in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{begin}self_attn.{way}_proj.{kind}"] = part
            else:
                old = next((o for o in renamed if rest.startswith(o)), "")
                found[begin + renamed.get(old, "") + rest.removeprefix(old)] = tensor
        elif not key.startswith(NO_WEIGHTS) and key != "attn_mask":
            found[key] = tensor
    return found
