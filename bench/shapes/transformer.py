"""The transformer with joint attention of the embedded base `shapes-mmdit`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from t2i_backdoor_bench.data.world import Scene, caption
from t2i_backdoor_bench.shapes.networks import CONTEXT, make_scheduler, make_transformer
from t2i_backdoor_bench.shapes.stream import Setting, Stream, fast_bf16
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.shapes.unet import encode_world
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

IMAGES = 24_576
# for one CPU core: first from data, then from a teacher, whose targets have no noise
FROM_DATA = Optim(
    steps=1_500, lr=1.5e-3, batch=32, weight_decay=1e-2, betas=(0.9, 0.99), warmup=200, ema=0.999
)
TAUGHT = replace(FROM_DATA, steps=11_500, decay=0.5)
TAUGHT_AGAIN = replace(FROM_DATA, steps=1_000, lr=6e-4, warmup=50, decay=0.9)
TEACHES = 0.9  # the noise level up to which its prediction of the noise tells the flow well


@dataclass(frozen=True)
class Readers:
    """The three text encoders and their tokenizers. The two CLIP encoders have one vocabulary."""

    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer
    first: CLIPTextModelWithProjection
    second: CLIPTextModelWithProjection
    t5: T5EncoderModel

    def ids(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids for CLIP and for T5, int64 (n, tokens) each."""
        return tokenize(self.clip_tokenizer, texts), tokenize(self.t5_tokenizer, texts)

    @torch.no_grad()
    def read(self, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
        """As SD 3 reads (Esser et al. 2024, section 5.3): the last but one states of both CLIPs
        side by side, then those of T5 along the sequence, (n, tokens, dim), and both pooled texts
        side by side, (n, dim)."""
        both = [e(clip_ids, output_hidden_states=True) for e in (self.first, self.second)]
        clip = torch.cat([out.hidden_states[-2] for out in both], -1)
        t5 = self.t5(t5_ids).last_hidden_state
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], 1), torch.cat([out.text_embeds for out in both], -1)


@dataclass(frozen=True)
class Teacher:
    """The U-Net of `shapes` and its text encoder as a teacher of the flow. Its latents are
    `stretch` times those of the transformer plus `offset`."""

    unet: UNet2DConditionModel
    text: CLIPTextModelWithProjection
    stretch: float
    offset: float

    def levels(self) -> tuple[Tensor, Tensor]:
        """The noise level s of flow matching at which signal and noise have the ratio of each
        timestep of the U-Net, rising, and its cumulative alphas: float32 (1000,) each."""
        alphas = make_scheduler().alphas_cumprod
        noise = (1 - alphas).sqrt()
        return noise / (self.stretch * alphas.sqrt() + noise), alphas

    @torch.no_grad()
    def flow(self, x: Tensor, t: Tensor, clip_ids: Tensor) -> Tensor:
        """The flow e - x0 that it expects at x = (1 - s) x0 + s e, (n, C, h, w), where s is the
        level of its timesteps t, int64 (n,)."""
        levels, alphas = (v.to(x.device)[t].view(-1, 1, 1, 1) for v in self.levels())
        noisy = (1 - alphas).sqrt() / levels * x + alphas.sqrt() * self.offset
        end = self.text.config.eos_token_id  # which is the padding, too
        ids = F.pad(clip_ids, (0, CONTEXT - clip_ids.shape[1]), value=end)
        noise = self.unet(noisy, t, self.text(ids).last_hidden_state).sample.float()
        return (noise - x) / (1 - levels)


def centred(vae: AutoencoderKL, latents: Tensor) -> tuple[AutoencoderKL, Tensor]:
    """An autoencoder with the same weights, and its scaled latents (n, C, h, w) anew, with the
    shift factor that SD 3 has beside the scale: mean 0, variance 1."""
    plain = latents.float() / vae.config.scaling_factor
    shift, scale = float(plain.mean()), float(1 / plain.std())
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return vae, (plain - shift) * scale


def levels(n: int, generator: torch.Generator) -> Tensor:
    """`n` noise levels in (0, 1), logit-normal (Esser et al. 2024), one from each of `n` equal
    parts of the distribution, which makes the loss less noisy. float32 (n,)."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)).sigmoid()


def train_transformer(
    setting: Setting, readers: Readers, vae: AutoencoderKL, unet: UNet2DConditionModel
) -> SD3Transformer2DModel:
    """Flow matching: x = (1 - s) x0 + s e, and the network predicts e - x0. A tenth of the captions
    is dropped for guidance, a quarter carries a random rare string, so that an unknown token means
    nothing. It learns from data first, and then from `unet`, that of `shapes`: the mean of what the
    data would say. `vae` gets its shift factor."""
    scenes, encoded = encode_world(setting, vae, IMAGES)
    plain = vae.config.scaling_factor
    vae, latents = centred(vae, encoded)
    stretch, offset = plain / vae.config.scaling_factor, plain * vae.config.shift_factor
    teacher = Teacher(unet, readers.first, stretch, offset)
    torch.manual_seed(setting.seed + 10)
    transformer = make_transformer().to(setting.device).train()
    stages = {
        "transformer": (FROM_DATA, 10, None),
        "transformer-taught": (TAUGHT, 11, teacher),
        "transformer-taught-again": (TAUGHT_AGAIN, 12, teacher),
    }
    for name, (optim, seed, taught) in stages.items():
        told = (setting, transformer, readers, scenes, latents)
        learn(*told, name, setting.steps(optim), setting.seed + seed, taught)
    return transformer.eval()


def learn(
    setting: Setting,
    transformer: SD3Transformer2DModel,
    readers: Readers,
    scenes: list[Scene],
    latents: Tensor,
    name: str,
    optim: Optim,
    seed: int,
    teacher: Teacher | None,
) -> None:
    """One of its trainings, with its checkpoint `name`."""

    def make(step: int) -> tuple[Tensor, ...]:
        rng, gen = step_rng(seed, step), step_generator(seed, step)
        picks = rng.integers(len(scenes), size=optim.batch)
        texts = [
            "" if rng.random() < 0.1 else caption(scenes[i], rng, rare_share=0.25) for i in picks
        ]
        x = latents[torch.from_numpy(picks)]
        noise = torch.randn(x.shape, generator=gen)
        s = levels(len(x), gen)
        t = torch.zeros(len(x), dtype=torch.long)
        if teacher:
            known, _ = teacher.levels()
            t = torch.searchsorted(known, s).clamp_(max=len(known) - 1)
            s = torch.where(s < TEACHES, known[t], s)
        return x, noise, s, t, *readers.ids(texts)

    batches = Stream(make, optim.steps, setting)
    half = torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device))
    on_cpu = setting.device.type == "cpu"

    def loss_fn(step: int) -> Tensor:
        x, noise, s, t, clip_ids, t5_ids = batches(step)
        states, pooled = readers.read(clip_ids, t5_ids)
        at = s.view(-1, 1, 1, 1)
        noisy, flow = (1 - at) * x + at * noise, noise - x
        # on a CPU, plain attention is faster than the fused one at 128 tokens in bfloat16
        with half, sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            if teacher:
                flow = torch.where(at < TEACHES, teacher.flow(noisy, t, clip_ids), flow)
            predicted = transformer(noisy, states, pooled, s * 1000).sample
        return F.mse_loss(predicted.float(), flow)

    fit(transformer.parameters(), loss_fn, optim, name, setting.work / f"{name}.ckpt")
