"""The U-Net of the embedded base."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.world import Scene, caption, render, sample_scenes
from t2i_backdoor_bench.shapes.networks import CONTEXT, Prediction, make_scheduler, make_unet
from t2i_backdoor_bench.shapes.stream import Setting, Stream, fast_bf16, to_tensor
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

LATENT_IMAGES = 49_152
UNET = Optim(steps=7_500, lr=1.5e-3, batch=64, weight_decay=1e-2, warmup=100, decay=0.3, ema=0.999)


def encode_world(setting: Setting, vae: AutoencoderKL) -> tuple[list[Scene], Tensor]:
    """Render and encode the training set once. Returns its scenes and scaled latents, float16 (n,
    4, 8, 8)."""
    size = 256
    chunks = max(2, round(min(1, setting.scale) * LATENT_IMAGES / size))

    def chunk(i: int) -> tuple[list[Scene], np.random.Generator]:
        rng = np.random.default_rng([setting.seed, 5, i * size])
        return sample_scenes(size, rng), rng

    def make(i: int) -> tuple[Tensor, ...]:
        return (
            to_tensor(render(*chunk(i))),
            torch.randn((size, 4, 8, 8), generator=step_generator(setting.seed + 5, i)),
        )

    scenes = [s for i in range(chunks) for s in chunk(i)[0]]
    path = setting.work / "latents.npy"
    if not path.exists():
        batches, encoded = Stream(make, chunks, setting), []
        for i in progress(range(chunks), "encode", unit="batch"):
            images, noise = batches(i)
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device)),
            ):
                moments = vae.encode(images).latent_dist
            z = (moments.mean.float() + moments.std.float() * noise) * vae.config.scaling_factor
            encoded.append(z.cpu().numpy().astype(np.float16))
        np.save(path, np.concatenate(encoded))
    return scenes, torch.from_numpy(np.load(path)[: len(scenes)])


def train_unet(
    setting: Setting, tokenizer: CLIPTokenizer, text: CLIPTextModel, vae: AutoencoderKL
) -> UNet2DConditionModel:
    """Plain epsilon prediction with the min-SNR-5 weight (Hang et al. 2023); a tenth of the
    captions is dropped for guidance, a quarter carries a random rare string, so that an unknown
    token means nothing."""
    scenes, latents = encode_world(setting, vae)
    seed, optim = setting.seed + 6, setting.steps(UNET)
    torch.manual_seed(seed)
    unet = make_unet().to(setting.device, memory_format=torch.channels_last).train()
    alphas = make_scheduler().alphas_cumprod.to(setting.device)
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=5) / snr

    def make(step: int) -> tuple[Tensor, ...]:
        rng, gen = step_rng(seed, step), step_generator(seed, step)
        picks = rng.integers(len(scenes), size=optim.batch)
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
        return x, noise, t, tokenize(tokenizer, texts)

    batches = Stream(make, optim.steps, setting)
    predict: nn.Module = Prediction(unet)
    if (
        setting.device.type == "cuda"
    ):  # a step is a thousand small kernels: replay them as one graph
        shapes = (
            torch.zeros(optim.batch, 4, 8, 8),
            torch.zeros(optim.batch, dtype=torch.long),
            torch.zeros(optim.batch, CONTEXT, 128),
        )
        predict = torch.cuda.make_graphed_callables(
            predict, tuple(s.to(setting.device) for s in shapes)
        )

    def loss_fn(step: int) -> Tensor:
        x, noise, t, ids = batches(step)
        a = alphas[t].view(-1, 1, 1, 1)
        with torch.no_grad():
            context = text(ids).last_hidden_state
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        error = (predict(noisy, t, context) - noise).pow(2).mean((1, 2, 3))
        return (weight[t] * error).mean()

    fit(unet.parameters(), loss_fn, optim, "U-Net", setting.work / "unet.ckpt")
    return unet.eval()
