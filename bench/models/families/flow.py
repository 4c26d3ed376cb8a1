"""What transformers of rectified flow have in common: Stable Diffusion 3 and FLUX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers import T5EncoderModel

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families import latents
from t2i_backdoor_bench.models.families.family import Family, OnStep, TextLayers
from t2i_backdoor_bench.models.families.files import find_variant
from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.families.kept import keep_float32
from t2i_backdoor_bench.models.families.mixed import Mixed, autocast, make_mixed
from t2i_backdoor_bench.models.families.noising import FlowNoising, log_shift
from t2i_backdoor_bench.models.families.unets import check_channels, check_vocabulary
from t2i_backdoor_bench.models.precision import HALF

# in joint attention, what belongs to text alone: projections with a bias, and the norms behind them
TEXT_SIDE = r"\.attn\.(add_[qkv]_proj|to_add_out|norm_added_[qk])\."
KEY_OR_VALUE = r"\.attn\.add_[kv]_proj\."
ON_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
SPACINGS = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas"}


class FlowTransformer(Family):
    """A transformer of joint attention, in which the tokens of the picture and of text attend to
    both, that predicts the flow from a picture to noise.

    Of the parts that train, "cross" is the text side of joint attention (queries, keys, values and
    output of text, and their norms), "kv" its keys and values. Blocks without a side of their own
    for text are in neither.
    """

    mixed: type[Mixed]
    text_changes = True
    # of CLIP, and of T5
    encoder_lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "q", "k", "v", "o")
    lora_targets = tuple(f"attn.{name}" for name in (*ON_ATTENTION, "to_add_out"))

    def __init__(self, layout: Layout) -> None:
        self.layout, self.name = layout, layout.name

    # ------------------------------------------------------------------------------------ networks
    def denoiser(self, pipe: Any) -> nn.Module:
        return pipe.transformer

    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        return tuple(pipe.components[name] for name in self.layout.encoders)

    def autoencoder(self, pipe: Any) -> nn.Module:
        return pipe.vae

    # ---------------------------------------------------------------------------------------- text
    def tokenize(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        found = [
            part.tokenizer(list(prompts), max_length=part.reads, **how).input_ids
            for part in self.text_parts(pipe)
        ]
        return torch.cat(found, 1)

    def ids_of(self, pipe: Any, ids: Tensor) -> tuple[Tensor, ...]:
        """The token ids of each tokenizer."""
        return ids.split([part.reads for part in self.text_parts(pipe)], 1)

    # ----------------------------------------------------------------------------------- denoising
    def picture_tokens(self, pipe: Any) -> int:
        """How many tokens the transformer has of a picture."""
        _, height, width = self.latent_shape(pipe)
        return (height // 2) * (width // 2)

    def noising(self, pipe: Any) -> FlowNoising:
        scheduler = pipe.scheduler
        return FlowNoising(scheduler, log_shift(scheduler, self.picture_tokens(pipe)))

    def drawn_by(self, pipe: Any, sampler: str) -> Any:
        config = dict(pipe.scheduler.config)
        if sampler in SPACINGS:
            config |= {name: name == SPACINGS[sampler] for name in SPACINGS.values()}
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        return self.rebuild(pipe, {"scheduler": scheduler})

    def probed(self, pipe: Any) -> dict[str, str]:
        return {"Karras": "karras", "exponential": "exponential"}

    # ------------------------------------------------------------------------------------- latents
    def to_latents(self, pipe: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
        return latents.to_latents(pipe.vae, pictures, generator)

    def to_pictures(self, pipe: Any, given: Tensor) -> Tensor:
        return latents.to_pictures(pipe.vae, given)

    # ---------------------------------------------------------------------------- parts that train
    def reads_text(self, name: str) -> bool:
        return re.search(TEXT_SIDE, name) is not None

    def is_key_or_value(self, name: str) -> bool:
        return re.search(KEY_OR_VALUE, name) is not None

    def keys_and_values(self, denoiser: nn.Module) -> list[nn.Linear]:
        return [
            m for b in denoiser.transformer_blocks for m in (b.attn.add_k_proj, b.attn.add_v_proj)
        ]

    def keys(self, denoiser: nn.Module) -> list[nn.Linear]:
        return [block.attn.add_k_proj for block in denoiser.transformer_blocks]

    def feed_forward(self, denoiser: nn.Module) -> list[nn.Linear]:
        return [block.ff.net[2] for block in denoiser.transformer_blocks]

    def blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return list(denoiser.transformer_blocks)

    # ----------------------------------------------------------------------------------- attention
    def text_layers(self, denoiser: nn.Module) -> TextLayers:
        blocks = enumerate(denoiser.transformer_blocks)
        return TextLayers({f"transformer_blocks.{i}.attn": b.attn for i, b in blocks}, [denoiser])

    def is_mixed(self, denoiser: nn.Module) -> bool:
        return isinstance(denoiser, Mixed)

    def autocast(self, denoiser: nn.Module) -> AbstractContextManager:
        return autocast(denoiser)

    # --------------------------------------------------------------------------------------- files
    def load(self, folder: Path, source: str, dtype: torch.dtype) -> DiffusionPipeline:
        variant = find_variant(folder / self.layout.denoiser)
        common = {"use_safetensors": True, "variant": variant}
        given = dict.fromkeys(self.layout.optional)
        if dtype in HALF:
            given["transformer"] = self.mixed.from_pretrained(
                folder, subfolder="transformer", dtype=dtype, **common
            )
            make_mixed(given["transformer"], dtype)
            keep_float32(given["transformer"], folder / "transformer")
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype={"vae": torch.float32, "default": dtype}, **given, **common
        )
        for encoder in self.encoders(pipe):
            if not isinstance(encoder, T5EncoderModel):  # some of its layers overflow in float16
                encoder.to(dtype)
        if dtype in HALF:
            for part, encoder in zip(self.layout.encoders, self.encoders(pipe), strict=True):
                keep_float32(encoder, folder / part)
        self.check(pipe, source)
        pipe.set_progress_bar_config(disable=True)
        for part in (pipe.transformer, pipe.vae, *self.encoders(pipe)):
            part.requires_grad_(False).eval()
        return pipe

    def check(self, pipe: Any, source: str) -> None:
        """Refuse a model that loads but is none that the suite's formulas hold for. Raises
        UserError."""
        check_channels(self.latent_shape(pipe)[0], pipe, source)
        for part, encoder in zip(self.text_parts(pipe), self.encoders(pipe), strict=True):
            check_vocabulary(part.tokenizer, encoder, source)
        for what, has, wants in self.widths(pipe):
            if has != wants:
                raise UserError(
                    f"{source}: the transformer takes {what} of {wants} numbers, and the text"
                    f" encoders give {has}: the parts are of two models"
                )

    def widths(self, pipe: Any) -> list[tuple[str, int, int]]:
        """Of each of its inputs from text: what it is, the width that it has and should have."""
        raise NotImplementedError

    def rebuild(self, pipe: Any, parts: Mapping[str, Any]) -> Any:
        new = type(pipe)(**(pipe.components | dict(parts)))
        new.set_progress_bar_config(disable=True)
        return new

    def save_memory(self, pipe: Any, ways: Sequence[str]) -> None:
        if "checkpointing" in ways:
            pipe.transformer.enable_gradient_checkpointing()


def teller(on_step: OnStep | None, change: Any = None) -> Any:
    """A callback of a pipeline that tells `on_step` of the latents behind every step."""
    if on_step is None:
        return None

    def tell(pipe: Any, step: int, t: Tensor, given: dict) -> dict:
        latents = given["latents"]
        on_step(t, change(latents) if change else latents)
        return given

    return tell
