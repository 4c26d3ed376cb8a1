"""Stable Diffusion 1.x and 2.x: a U-Net with cross-attention to one text encoder's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families import folders
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.cross_attention import ask, teller
from t2i_backdoor_bench.models.families.family import OnStep
from t2i_backdoor_bench.models.families.unets import UNet, clip_ids
from t2i_backdoor_bench.models.offload import device_of
from t2i_backdoor_bench.models.sampler import Sampler


class StableDiffusion(UNet):
    """One encoder of CLIP, whose last states are what the U-Net reads."""

    name = "stable_diffusion"
    layout = folders.STABLE_DIFFUSION
    pipeline = StableDiffusionPipeline

    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        return (pipe.text_encoder,)

    # ---------------------------------------------------------------------------------------- text
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        return (TextPart(pipe.tokenizer, 0, pipe.tokenizer.model_max_length),)

    def tokenize(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        return clip_ids(pipe.tokenizer, prompts)

    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        out = ask(pipe.text_encoder, weights[0] if weights else {}, ids)
        return Conditioning(out[0].to(device_of(pipe.unet)))

    # ----------------------------------------------------------------------------------- denoising
    def denoise(
        self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        scale = self.guidance_input(pipe, x, guidance)
        return pipe.unet(x, t, conditioning.states, timestep_cond=scale).sample

    def draw(
        self,
        pipe: Any,
        conditioning: Conditioning,
        empty: Conditioning,
        noise: Tensor,
        sampler: Sampler,
        generators: Sequence[torch.Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            prompt_embeds=conditioning.states,
            negative_prompt_embeds=empty.expand(len(conditioning)).states,
            latents=noise,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=list(generators),
            output_type="latent",
            callback_on_step_end=teller(on_step) if on_step else None,
        ).images

    def extra(self, pipe: Any | None) -> dict[str, Any]:
        return {"requires_safety_checker": False}

    def check(self, pipe: Any, source: str) -> None:
        super().check(pipe, source)
        if told := pipe.unet.config.addition_embed_type:
            raise UserError(
                f"{source} has a U-Net that is told {told!r} beside the text, and those of Stable"
                " Diffusion 1.x and 2.x are told nothing else; choose such a model"
            )


STABLE_DIFFUSION = StableDiffusion()
