"""The U-Nets of the embedded bases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.world import Scene, caption, render, sample_scenes
from t2i_backdoor_bench.shapes.networks import make_scheduler
from t2i_backdoor_bench.shapes.stream import Setting, Stream, fast_bf16, to_tensor
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

LATENT_IMAGES = 49_152
UNET = Optim(steps=7_500, lr=1.5e-3, batch=64, weight_decay=1e-2, warmup=100, decay=0.3, ema=0.999)
# for one CPU core
SHORT = replace(UNET, steps=4_000, batch=32)
# the same before a teacher, and with one, whose targets have no noise
BEFORE = replace(SHORT, steps=2_500)
TAUGHT = replace(SHORT, steps=7_500, decay=0.6, ema=0.998)
FEWER_IMAGES = 24_576


def encode_world(
    setting: Setting, vae: AutoencoderKL, images: int = LATENT_IMAGES
) -> tuple[list[Scene], Tensor]:
    """Render and encode the training set once. Returns its scenes and scaled latents, float16 (n,
    4, 8, 8)."""
    size = 256
    chunks = max(2, round(min(1, setting.scale) * images / size))

    def chunk(i: int) -> tuple[list[Scene], np.random.Generator]:
        rng = np.random.default_rng([setting.seed, 5, i * size])
        return sample_scenes(size, rng), rng

    def make(i: int) -> tuple[Tensor, ...]:
        return (
            to_tensor(render(*chunk(i))),
            torch.randn((size, 4, 8, 8), generator=step_generator(setting.seed + 5, i)),
        )

    scenes = [s for i in range(chunks) for s in chunk(i)[0]]
    path = setting.work / ("latents.npy" if images == LATENT_IMAGES else f"latents-{images}.npy")
    if not path.exists():
        batches, encoded = Stream(make, chunks, setting), []
        for i in progress(range(chunks), "encode", unit="batch"):
            pictures, noise = batches(i)
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device)),
            ):
                # a few at a time, whose activations stay in the cache of a CPU
                moments = torch.cat([vae.quant_conv(vae.encoder(x)) for x in pictures.split(16)])
            posterior = DiagonalGaussianDistribution(moments.float())
            z = (posterior.mean + posterior.std * noise) * vae.config.scaling_factor
            encoded.append(z.cpu().numpy().astype(np.float16))
        np.save(path, np.concatenate(encoded))
    return scenes, torch.from_numpy(np.load(path)[: len(scenes)])


Read = Callable[[Tensor], tuple[Tensor, ...]]  # token ids to what a U-Net is told of texts
# noised latents (n, 4, 8, 8), timesteps (n,) and token ids (n, tokens) to noise
Teacher = Callable[[Tensor, Tensor, Tensor], Tensor]


def train_unet(
    setting: Setting,
    predict: nn.Module,
    tokenizer: CLIPTokenizer,
    read: Read,
    vae: AutoencoderKL,
    optim: Optim = UNET,
    images: int = LATENT_IMAGES,
    name: str = "unet",
    teacher: Teacher | None = None,
) -> None:
    """Train the U-Net in `predict(x, t, *text)`: plain epsilon prediction with the min-SNR-5 weight
    (Hang et al. 2023); a tenth of the captions is dropped for guidance, a quarter carries a random
    rare string, so that an unknown token means nothing. `read(ids)` gives text states (n, tokens,
    dim), and for SDXL's pooled texts (n, dim), too: then every other dropped caption is zeros, for
    which SDXL's pipeline takes an absent one, and the others are the empty text. With a `teacher`,
    its prediction is learned instead of the noise: the mean of what the data would say."""
    scenes, latents = encode_world(setting, vae, images)
    seed, optim = setting.seed + 6, setting.steps(optim)
    predict = predict.to(setting.device, memory_format=torch.channels_last).train()
    alphas = make_scheduler().alphas_cumprod.to(setting.device)
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=5) / snr

    make = batch_maker(scenes, latents, tokenizer, seed, optim.batch)
    batches = Stream(make, optim.steps, setting)
    call: nn.Module = predict
    if setting.device.type == "cuda":
        # a step is a thousand small kernels: replay them as one graph
        x, _, t, ids, absent = (part.to(setting.device) for part in make(0))
        call = torch.cuda.make_graphed_callables(
            predict, tuple(torch.zeros_like(a) for a in (x, t, *told(read, ids, absent)))
        )
    half = torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device))

    def loss_fn(step: int) -> Tensor:
        x, noise, t, ids, absent = batches(step)
        a = alphas[t].view(-1, 1, 1, 1)
        text = told(read, ids, absent)
        # on a CPU, plain attention is faster than the fused one at so few tokens
        with half, sdpa_kernel(SDPBackend.MATH) if x.device.type == "cpu" else nullcontext():
            noisy = a.sqrt() * x + (1 - a).sqrt() * noise
            predicted = call(noisy, t, *text)
            if teacher:
                noise = teacher(noisy, t, ids).float()
        return (weight[t] * (predicted.float() - noise).pow(2).mean((1, 2, 3))).mean()

    fit(predict.parameters(), loss_fn, optim, "U-Net", setting.work / f"{name}.ckpt")
    predict.eval()


def batch_maker(
    scenes: list[Scene], latents: Tensor, tokenizer: CLIPTokenizer, seed: int, batch: int
) -> Callable[[int], tuple[Tensor, ...]]:
    """The batch of a step: latents and noise (n, 4, 8, 8), timesteps (n,), token ids (n, tokens),
    and of which rows the caption is absent altogether, bool (n,)."""

    def make(step: int) -> tuple[Tensor, ...]:
        rng, gen = step_rng(seed, step), step_generator(seed, step)
        picks = rng.integers(len(scenes), size=batch)
        texts = [
            "" if rng.random() < 0.1 else caption(scenes[i], rng, rare_share=0.25) for i in picks
        ]
        x = latents[torch.from_numpy(picks)].float()
        noise = torch.randn(x.shape, generator=gen)
        # half of the timesteps uniform, half around the middle, where a shape is decided
        # (logit-normal, Esser et al. 2024)
        t = torch.rand(len(x), generator=gen)
        middle = torch.randn(len(x), generator=gen).sigmoid()
        t = (torch.where(torch.arange(len(x)) % 2 == 0, t, middle) * 1000).long().clamp_(max=999)
        absent = torch.tensor([not text and i % 2 == 0 for i, text in enumerate(texts)])
        return x, noise, t, tokenize(tokenizer, texts), absent

    return make


def told(read: Read, ids: Tensor, absent: Tensor) -> tuple[Tensor, ...]:
    """What a U-Net is told of a batch of texts."""
    with torch.no_grad():
        states, *pooled = read(ids)
    if pooled:
        states = states.masked_fill(absent[:, None, None], 0)
    return states, *(p.masked_fill(absent[:, None], 0) for p in pooled)
