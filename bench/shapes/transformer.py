"""The transformer with joint attention of the embedded base `shapes-mmdit`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from t2i_backdoor_bench.data.world import caption
from t2i_backdoor_bench.shapes.networks import make_transformer
from t2i_backdoor_bench.shapes.stream import Setting, Stream, fast_bf16
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.shapes.unet import encode_world
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

IMAGES = 24_576
TRANSFORMER = Optim(
    steps=8_000,
    lr=1.5e-3,
    batch=32,
    weight_decay=1e-2,
    betas=(0.9, 0.99),
    warmup=200,
    decay=0.35,
    ema=0.999,
)


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
    setting: Setting, readers: Readers, vae: AutoencoderKL
) -> SD3Transformer2DModel:
    """Flow matching: x = (1 - s) x0 + s e, and the network predicts e - x0. A tenth of the captions
    is dropped for guidance, a quarter carries a random rare string, so that an unknown token means
    nothing. `vae` gets its shift factor."""
    scenes, encoded = encode_world(setting, vae, IMAGES)
    vae, latents = centred(vae, encoded)
    seed, optim = setting.seed + 10, setting.steps(TRANSFORMER)
    torch.manual_seed(seed)
    transformer = make_transformer().to(setting.device).train()

    def make(step: int) -> tuple[Tensor, ...]:
        rng, gen = step_rng(seed, step), step_generator(seed, step)
        picks = rng.integers(len(scenes), size=optim.batch)
        texts = [
            "" if rng.random() < 0.1 else caption(scenes[i], rng, rare_share=0.25) for i in picks
        ]
        x = latents[torch.from_numpy(picks)]
        noise = torch.randn(x.shape, generator=gen)
        return x, noise, levels(len(x), gen), *readers.ids(texts)

    batches = Stream(make, optim.steps, setting)
    half = torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device))

    def loss_fn(step: int) -> Tensor:
        x, noise, s, clip_ids, t5_ids = batches(step)
        states, pooled = readers.read(clip_ids, t5_ids)
        at = s.view(-1, 1, 1, 1)
        # on a CPU, plain attention is faster than the fused one at 128 tokens in bfloat16
        with half, sdpa_kernel(SDPBackend.MATH):
            flow = transformer((1 - at) * x + at * noise, states, pooled, s * 1000).sample
        return F.mse_loss(flow.float(), noise - x)

    fit(transformer.parameters(), loss_fn, optim, "transformer", setting.work / "transformer.ckpt")
    return transformer.eval()
