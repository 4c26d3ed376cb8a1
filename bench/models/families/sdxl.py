"""SDXL: a U-Net that reads the penultimate states of two text encoders side by side, and the pooled
state of the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families import folders
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.cross_attention import ask, teller
from t2i_backdoor_bench.models.families.family import OnStep
from t2i_backdoor_bench.models.families.unets import UNet, clip_ids
from t2i_backdoor_bench.models.offload import device_of
from t2i_backdoor_bench.models.sampler import Sampler


class SDXL(UNet):
    """Two encoders of CLIP. The U-Net is also told the size of the picture, which is its own.

    `force_zeros_for_empty_prompt` in the pipeline's settings: the empty prompt's states are zeros,
    which is what guidance subtracts and what training drops prompts to.
    """

    name = "sdxl"
    layout = folders.SDXL
    pipeline = StableDiffusionXLPipeline

    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        return (pipe.text_encoder, pipe.text_encoder_2)

    # ---------------------------------------------------------------------------------------- text
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        one, two = pipe.tokenizer, pipe.tokenizer_2
        first = TextPart(one, 0, one.model_max_length)
        return (first, TextPart(two, 0, two.model_max_length, column=first.length))

    def tokenize(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        return torch.cat([clip_ids(t, prompts) for t in (pipe.tokenizer, pipe.tokenizer_2)], 1)

    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        each = ids.split([part.reads for part in self.text_parts(pipe)], 1)
        stand_ins = weights or [{}] * len(each)
        out = [
            ask(encoder, own, given, output_hidden_states=True)
            for encoder, own, given in zip(self.encoders(pipe), stand_ins, each, strict=True)
        ]
        device = device_of(pipe.unet)
        states = torch.cat([o.hidden_states[-2].to(device) for o in out], -1)
        pooled = out[-1].text_embeds.to(device)
        if pipe.config.force_zeros_for_empty_prompt:
            gone = (ids == self.tokenize(pipe, [""]).to(ids.device)).all(1).to(device)
            states = states.masked_fill(gone[:, None, None], 0)
            pooled = pooled.masked_fill(gone[:, None], 0)
        return Conditioning(states, {"pooled": pooled})

    # ----------------------------------------------------------------------------------- denoising
    def denoise(
        self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        side, pooled = self.resolution(pipe), conditioning.more["pooled"]
        # size of the original, its corner, and size of what is drawn
        size = torch.tensor([side, side, 0, 0, side, side], device=x.device).to(pooled)
        told = {"text_embeds": pooled, "time_ids": size.expand(len(x), -1)}
        scale = self.guidance_input(pipe, x, guidance)
        return pipe.unet(
            x, t, conditioning.states, timestep_cond=scale, added_cond_kwargs=told
        ).sample

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
        empty = empty.expand(len(conditioning))
        return pipe(
            prompt_embeds=conditioning.states,
            pooled_prompt_embeds=conditioning.more["pooled"],
            negative_prompt_embeds=empty.states,
            negative_pooled_prompt_embeds=empty.more["pooled"],
            latents=noise,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=list(generators),
            output_type="latent",
            callback_on_step_end=teller(on_step) if on_step else None,
        ).images

    # --------------------------------------------------------------------------------------- files
    def extra(self, pipe: Any | None) -> dict[str, Any]:
        zeros = "force_zeros_for_empty_prompt"
        kept = {} if pipe is None else {zeros: pipe.config[zeros]}
        return {"add_watermarker": False} | kept

    def check(self, pipe: Any, source: str) -> None:
        super().check(pipe, source)
        unet, vae = pipe.unet, pipe.vae.config
        if unet.config.addition_embed_type != "text_time":
            raise UserError(
                f"{source} has a U-Net that is told {unet.config.addition_embed_type!r} beside the"
                " text, and those of SDXL are told pooled text and the picture's size (text_time);"
                " choose such a model"
            )
        wants = unet.add_embedding.linear_1.in_features
        pooled = pipe.text_encoder_2.config.projection_dim
        has = 6 * unet.config.addition_time_embed_dim + pooled
        if has != wants:
            raise UserError(
                f"{source}: the U-Net takes {wants} numbers of pooled text and size, and its parts"
                f" give {has}: it is a refiner, or the parts are of two models"
            )
        if pipe.tokenizer.get_vocab() != pipe.tokenizer_2.get_vocab():
            raise UserError(
                f"{source} has two tokenizers of different words, whose states cannot stand side by"
                " side; choose a model whose tokenizers are alike"
            )
        if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
            raise UserError(
                f"{source} has an autoencoder with a mean and width for each channel (latents_mean,"
                " latents_std), which this suite does not scale by; choose a model without them"
            )


SDXL_FAMILY = SDXL()
