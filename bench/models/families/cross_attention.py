"""What the families have in common whose denoiser looks at text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.func import functional_call

from t2i_backdoor_bench.models.families import latents
from t2i_backdoor_bench.models.families.attention import TextAttention
from t2i_backdoor_bench.models.families.family import Family, OnStep, TextLayers
from t2i_backdoor_bench.models.families.files import find_variant
from t2i_backdoor_bench.models.families.kept import keep_float32
from t2i_backdoor_bench.models.families.mixed import Mixed, autocast, make_mixed
from t2i_backdoor_bench.models.families.noising import DrawingSteps, Noising
from t2i_backdoor_bench.models.families.schedulers import make_scheduler
from t2i_backdoor_bench.models.offload import device_of
from t2i_backdoor_bench.models.precision import HALF


def teller(on_step: OnStep) -> Any:
    """`on_step` as the callback at the end of a step of a diffusers pipeline."""

    def tell(pipe: Any, step: int, t: Tensor, given: dict) -> dict:
        on_step(t, given["latents"])
        return given

    return tell


def ask(encoder: nn.Module, weights: Mapping[str, Tensor], ids: Tensor, **how: Any) -> Any:
    """What a text encoder makes of token ids, with tensors by name that stand in for its own."""
    device = device_of(encoder)  # it may wait on the CPU
    how = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in how.items()}
    given = (ids.to(device),)
    return (
        functional_call(encoder, dict(weights), given, how) if weights else encoder(*given, **how)
    )


class CrossAttention(Family):
    """Layers that read text are called attn2; their to_k and to_v project text. Latents are those
    of an `AutoencoderKL`, and the scheduler is one of noise or velocity."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
    encoder_lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj")
    pipeline: type  # of diffusers
    mixed: type  # the denoiser's class in half precision

    # ------------------------------------------------------------------------------------ networks
    def autoencoder(self, pipe: Any) -> nn.Module:
        return pipe.vae

    # ------------------------------------------------------------------------------------- drawing
    def noising(self, pipe: Any) -> Noising:
        return Noising(DDPMScheduler.from_config(pipe.scheduler.config))

    def drawing_steps(self, pipe: Any, steps: int, device: torch.device) -> DrawingSteps:
        return DrawingSteps(pipe.scheduler, steps, device)

    def drawn_by(self, pipe: Any, sampler: str) -> Any:
        return self.rebuild(pipe, {"scheduler": make_scheduler(pipe.scheduler, sampler)})

    # ------------------------------------------------------------------------------------- latents
    def resolution(self, pipe: Any) -> int:
        return self.denoiser(pipe).config.sample_size * pipe.vae_scale_factor

    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        config = self.denoiser(pipe).config
        return (config.in_channels, config.sample_size, config.sample_size)

    def to_latents(self, pipe: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
        return latents.to_latents(pipe.vae, pictures, generator)

    def to_pictures(self, pipe: Any, given: Tensor) -> Tensor:
        return latents.to_pictures(pipe.vae, given)

    # ---------------------------------------------------------------------------- parts that train
    def reads_text(self, name: str) -> bool:
        return ".attn2." in name

    def is_key_or_value(self, name: str) -> bool:
        return self.reads_text(name) and (".to_k." in name or ".to_v." in name)

    def keys_and_values(self, denoiser: nn.Module) -> list[nn.Linear]:
        return _ending(denoiser, ".attn2.to_k", ".attn2.to_v")

    def keys(self, denoiser: nn.Module) -> list[nn.Linear]:
        return _ending(denoiser, ".attn2.to_k")

    def feed_forward(self, denoiser: nn.Module) -> list[nn.Linear]:
        return _ending(denoiser, ".ff.net.2")

    # ----------------------------------------------------------------------------------- attention
    def text_layers(self, denoiser: nn.Module) -> TextLayers:
        modules = dict(denoiser.named_modules())
        layers = {n: m for n, m in modules.items() if n.endswith(".attn2")}
        return TextLayers(
            layers, [m for m in modules.values() if "gradient_checkpointing" in vars(m)]
        )

    def attention_of(self, layer: Attention) -> TextAttention:
        if layer.norm_q is not None or layer.norm_k is not None:
            raise ValueError("maps of layers that normalize queries or keys are not supported")
        return TextAttention(layer.to_q, layer.to_k, layer.heads, _inputs)

    def is_mixed(self, denoiser: nn.Module) -> bool:
        return isinstance(denoiser, Mixed)

    def autocast(self, denoiser: nn.Module) -> AbstractContextManager:
        return autocast(denoiser)

    # --------------------------------------------------------------------------------------- files
    def check(self, pipe: Any, source: str) -> None:
        """Refuse a model that loads but is none that the suite's formulas hold for. Raises
        UserError."""

    def extra(self, pipe: Any | None) -> dict[str, Any]:
        """What the pipeline's class takes beside its parts; of `pipe`, where there is one."""
        return {}

    def load(self, folder: Path, source: str, dtype: torch.dtype) -> Any:
        name = self.layout.denoiser
        common = {"use_safetensors": True, "variant": find_variant(folder / name)}
        given = dict.fromkeys(self.layout.optional) | self.extra(None)
        if dtype in HALF:
            given[name] = self.mixed.from_pretrained(folder, subfolder=name, dtype=dtype, **common)
            make_mixed(given[name], dtype)
            keep_float32(given[name], folder / name)
        pipe = self.pipeline.from_pretrained(
            folder, dtype={"vae": torch.float32, "default": dtype}, **given, **common
        )
        self.cast_encoders(pipe, dtype)
        if dtype in HALF:
            for part, encoder in zip(self.layout.encoders, self.encoders(pipe), strict=True):
                keep_float32(encoder, folder / part)
        self.check(pipe, source)
        pipe.set_progress_bar_config(disable=True)
        for part in (self.denoiser(pipe), pipe.vae, *self.encoders(pipe)):
            part.requires_grad_(False).eval()
        return pipe

    def cast_encoders(self, pipe: Any, dtype: torch.dtype) -> None:
        for encoder in self.encoders(pipe):
            encoder.to(dtype)

    def rebuild(self, pipe: Any, parts: Mapping[str, Any]) -> Any:
        new = type(pipe)(**(pipe.components | dict(parts)), **self.extra(pipe))
        new.set_progress_bar_config(disable=True)
        return new

    def save_memory(self, pipe: Any, ways: Sequence[str]) -> None:
        if "checkpointing" in ways:
            self.denoiser(pipe).enable_gradient_checkpointing()


def _ending(denoiser: nn.Module, *ends: str) -> list[nn.Linear]:
    return [m for n, m in denoiser.named_modules() if n.endswith(ends)]


def _inputs(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor]:
    """Hidden states and text states that an attention layer of diffusers is called with."""
    hidden = args[0] if args else kwargs["hidden_states"]
    return hidden, kwargs["encoder_hidden_states"]
