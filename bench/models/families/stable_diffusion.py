"""Stable Diffusion 1.x and 2.x: a U-Net with cross-attention to one text encoder's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.func import functional_call

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families import folders
from t2i_backdoor_bench.models.families.attention import TextAttention
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.family import Family, OnStep, TextLayers
from t2i_backdoor_bench.models.families.files import find_variant
from t2i_backdoor_bench.models.families.mixed import Mixed, MixedUNet, autocast, make_mixed
from t2i_backdoor_bench.models.families.noising import DrawingSteps, Noising
from t2i_backdoor_bench.models.offload import device_of
from t2i_backdoor_bench.models.precision import HALF
from t2i_backdoor_bench.models.sampler import Sampler


class StableDiffusion(Family):
    """Cross-attention layers are called attn2; their to_k and to_v project text states."""

    name = "stable_diffusion"
    layout = folders.STABLE_DIFFUSION
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
    encoder_lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj")

    # ------------------------------------------------------------------------------------ networks
    def denoiser(self, pipe: Any) -> nn.Module:
        return pipe.unet

    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        return (pipe.text_encoder,)

    def autoencoder(self, pipe: Any) -> nn.Module:
        return pipe.vae

    # ---------------------------------------------------------------------------------------- text
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        return (TextPart(pipe.tokenizer, 0, pipe.tokenizer.model_max_length),)

    def tokenize(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        out = pipe.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=pipe.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return out.input_ids

    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        encoder = pipe.text_encoder
        ids = ids.to(device_of(encoder))  # it may wait on the CPU
        out = functional_call(encoder, dict(weights[0]), (ids,)) if weights else encoder(ids)
        return Conditioning(out[0].to(device_of(pipe.unet)))

    # ----------------------------------------------------------------------------------- denoising
    def denoise(self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return pipe.unet(x, t, conditioning.states).sample

    def noising(self, pipe: Any) -> Noising:
        return Noising(DDPMScheduler.from_config(pipe.scheduler.config))

    def draw(
        self,
        pipe: Any,
        conditioning: Conditioning,
        empty: Conditioning,
        noise: Tensor,
        sampler: Sampler,
        on_step: OnStep | None = None,
    ) -> Tensor:
        def tell(pipe: Any, step: int, t: Tensor, given: dict) -> dict:
            on_step(t, given["latents"])
            return given

        pipe.set_progress_bar_config(disable=True)
        return pipe(
            prompt_embeds=conditioning.states,
            negative_prompt_embeds=empty.expand(len(conditioning)).states,
            latents=noise,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            output_type="latent",
            callback_on_step_end=tell if on_step else None,
        ).images

    def drawing_steps(self, pipe: Any, steps: int, device: torch.device) -> DrawingSteps:
        return DrawingSteps(pipe.scheduler, steps, device)

    def drawn_by(self, pipe: Any, sampler: str) -> Any:
        config = pipe.scheduler.config
        if sampler == "DDIM":
            scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
        else:
            scheduler = EulerDiscreteScheduler.from_config(config)
        return self.rebuild(pipe, {"scheduler": scheduler})

    # ------------------------------------------------------------------------------------- latents
    def resolution(self, pipe: Any) -> int:
        return pipe.unet.config.sample_size * pipe.vae_scale_factor

    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        size = pipe.unet.config.sample_size
        return (pipe.unet.config.in_channels, size, size)

    def to_latents(self, pipe: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
        posterior = pipe.vae.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        return (posterior.mean + posterior.std * noise) * pipe.vae.config.scaling_factor

    def to_pictures(self, pipe: Any, latents: Tensor) -> Tensor:
        vae = pipe.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample

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
    def load(self, folder: Path, source: str, dtype: torch.dtype) -> StableDiffusionPipeline:
        common = {"use_safetensors": True, "variant": find_variant(folder / "unet")}
        given = dict.fromkeys(self.layout.optional) | {"requires_safety_checker": False}
        if dtype in HALF:
            given["unet"] = MixedUNet.from_pretrained(
                folder, subfolder="unet", dtype=dtype, **common
            )
            make_mixed(given["unet"], dtype)
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, dtype={"vae": torch.float32, "default": dtype}, **given, **common
        )
        pipe.text_encoder.to(dtype)
        check_networks(pipe, source)
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(
            pipe.scheduler.config, algorithm_type="dpmsolver++"
        )
        pipe.set_progress_bar_config(disable=True)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        pipe.unet.to(memory_format=torch.channels_last)
        return pipe

    def rebuild(self, pipe: Any, parts: Mapping[str, Any]) -> Any:
        new = type(pipe)(**(pipe.components | dict(parts)), requires_safety_checker=False)
        new.set_progress_bar_config(disable=True)
        return new

    def save_memory(self, pipe: Any, ways: Sequence[str]) -> None:
        if "checkpointing" in ways:
            pipe.unet.enable_gradient_checkpointing()
        if "slicing" in ways:
            pipe.unet.set_attention_slice("auto")


STABLE_DIFFUSION = StableDiffusion()


def _ending(denoiser: nn.Module, *ends: str) -> list[nn.Linear]:
    return [m for n, m in denoiser.named_modules() if n.endswith(ends)]


def _inputs(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor]:
    """Hidden states and text states that an attention layer of diffusers is called with."""
    hidden = args[0] if args else kwargs["hidden_states"]
    return hidden, kwargs["encoder_hidden_states"]


def check_networks(pipe: StableDiffusionPipeline, source: str) -> None:
    """Refuse a model that loads but is none that the suite's formulas hold for. Raises
    UserError."""
    unet, settings = pipe.unet.config, pipe.scheduler.config
    if "beta_schedule" not in settings or settings.get("prediction_type", "epsilon") not in (
        "epsilon",
        "v_prediction",
    ):
        what = settings.get("prediction_type", "no noise schedule")
        raise UserError(
            f"{source} predicts {what!r}; the suite trains and samples epsilon and v_prediction"
            " models only"
        )
    if not isinstance(unet.sample_size, int):
        raise UserError(
            f"{source} draws pictures that are not square (sample_size {unet.sample_size}); choose"
            " a square base"
        )
    if unet.in_channels != pipe.vae.config.latent_channels:
        raise UserError(
            f"{source} takes {unet.in_channels} channels where its latents have"
            f" {pipe.vae.config.latent_channels}: it is not a plain text-to-image model"
            " (inpainting, depth?); choose one"
        )
    width = pipe.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        raise UserError(
            f"{source}: the U-Net attends to {unet.cross_attention_dim} numbers a token, and the"
            f" text encoder gives {width}: the parts are of two models"
        )
