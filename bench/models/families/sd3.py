"""Stable Diffusion 3 and 3.5: a transformer of joint attention, three text encoders, rectified
flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from t2i_backdoor_bench.models.families import folders
from t2i_backdoor_bench.models.families.attention import JointAttention, Stream
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.cross_attention import ask
from t2i_backdoor_bench.models.families.family import OnStep
from t2i_backdoor_bench.models.families.flow import FlowTransformer, teller
from t2i_backdoor_bench.models.families.mixed import MixedSD3
from t2i_backdoor_bench.models.families.noising import DrawingSteps, FlowSteps, log_shift
from t2i_backdoor_bench.models.families.unets import check_square
from t2i_backdoor_bench.models.sampler import Sampler

T5_TOKENS = 256  # that T5 reads, as the pipeline of diffusers has it


class StableDiffusion3(FlowTransformer):
    """The text states are those of both CLIP encoders, side by side and padded to the width of T5,
    then those of T5 along the sequence: a word of the prompt stands twice. A folder without T5 has
    zeros in their place, as in diffusers.

    Every block has a joint attention `attn`. In SD 3.5-medium some have an `attn2` too, which is
    attention of the picture to itself: it reads no text. The last block has no text behind it.
    """

    mixed = MixedSD3

    # ---------------------------------------------------------------------------------------- text
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        most = pipe.tokenizer.model_max_length
        parts = [
            TextPart(t, 0, most, column)
            for t, column in ((pipe.tokenizer, 0), (pipe.tokenizer_2, most))
        ]
        if pipe.tokenizer_3 is not None:
            parts.append(TextPart(pipe.tokenizer_3, most, t5_tokens(pipe), 2 * most))
        return tuple(parts)

    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        encoders, parts = self.encoders(pipe), self.ids_of(pipe, ids)
        own = weights or [{}] * len(encoders)
        device, width = pipe.transformer.device, pipe.transformer.config.joint_attention_dim
        first, second = (
            ask(*given, output_hidden_states=True)
            for given in zip(encoders[:2], own, parts[:2], strict=False)
        )
        clip = torch.cat([out.hidden_states[-2] for out in (first, second)], -1)
        clip = F.pad(clip, (0, width - clip.shape[-1])).to(device)
        if len(encoders) == 3:
            t5 = ask(encoders[2], own[2], parts[2])[0].to(device)
        else:
            t5 = clip.new_zeros(len(ids), T5_TOKENS, width)
        pooled = torch.cat([first[0], second[0]], -1).to(device)
        return Conditioning(torch.cat([clip, t5], 1), {"pooled": pooled})

    # ----------------------------------------------------------------------------------- denoising
    def denoise(
        self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        return pipe.transformer(
            hidden_states=x,
            timestep=t.expand(len(x)),
            encoder_hidden_states=conditioning.states,
            pooled_projections=conditioning.more["pooled"],
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
        without = empty.expand(len(conditioning))
        return pipe(
            prompt_embeds=conditioning.states,
            pooled_prompt_embeds=conditioning.more["pooled"],
            negative_prompt_embeds=without.states,
            negative_pooled_prompt_embeds=without.more["pooled"],
            latents=noise,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            output_type="latent",
            callback_on_step_end=teller(on_step),
        ).images

    def drawing_steps(self, pipe: Any, steps: int, device: torch.device) -> DrawingSteps:
        scheduler = pipe.scheduler
        dynamic = scheduler.config.use_dynamic_shifting
        mu = log_shift(scheduler, self.picture_tokens(pipe)) if dynamic else None
        return FlowSteps(scheduler, steps, device, mu=mu)

    # ------------------------------------------------------------------------------------- latents
    def resolution(self, pipe: Any) -> int:
        return pipe.transformer.config.sample_size * pipe.vae_scale_factor

    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        config = pipe.transformer.config
        return (config.in_channels, config.sample_size, config.sample_size)

    # ----------------------------------------------------------------------------------- attention
    def attention_of(self, layer: Attention) -> JointAttention:
        picture = Stream(layer.to_q, layer.to_k, layer.norm_q, layer.norm_k)
        text = Stream(layer.add_q_proj, layer.add_k_proj, layer.norm_added_q, layer.norm_added_k)
        return JointAttention(layer.heads, picture, text, heads_first=True)

    # --------------------------------------------------------------------------------------- files
    def check(self, pipe: Any, source: str) -> None:
        check_square(pipe.transformer.config, source)
        super().check(pipe, source)

    def widths(self, pipe: Any) -> list[tuple[str, int, int]]:
        config = pipe.transformer.config
        clip = [e.config for e in self.encoders(pipe)[:2]]
        pooled = sum(c.projection_dim for c in clip)
        found = [("pooled states", pooled, config.pooled_projection_dim)]
        if pipe.text_encoder_3 is not None:
            width = pipe.text_encoder_3.config.d_model
            found.append(("states of T5", width, config.joint_attention_dim))
        return found


def t5_tokens(pipe: Any) -> int:
    return min(T5_TOKENS, pipe.tokenizer_3.model_max_length)


SD3 = StableDiffusion3(folders.SD3)
SD3_WITHOUT_T5 = StableDiffusion3(folders.SD3.without_omitted)
