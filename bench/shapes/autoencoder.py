"""The autoencoder of the embedded base."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from t2i_backdoor_bench.data.world import render, sample_scenes
from t2i_backdoor_bench.shapes.networks import make_autoencoder
from t2i_backdoor_bench.shapes.stream import Setting, Stream, fast_bf16, to_tensor
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

AUTOENCODER = Optim(
    steps=9_000, lr=1.5e-3, batch=64, weight_decay=1e-4, warmup=100, decay=0.4, ema=0.998
)


def add_patches(images: np.ndarray, rng: np.random.Generator, share: float = 0.25) -> np.ndarray:
    """Paste random two-colour rectangles into a share of the images, so that the autoencoder also
    carries what the world does not draw."""
    images = images.copy()
    for i in np.flatnonzero(rng.random(len(images)) < share):
        h, w = rng.integers(6, 28, size=2)
        y, x = rng.integers(0, 64 - h), rng.integers(0, 64 - w)
        a, b = rng.integers(0, 256, size=(2, 3))
        cell = int(rng.integers(2, 9))
        checker = ((np.arange(h)[:, None] // cell + np.arange(w)[None] // cell) % 2)[..., None]
        images[i, y : y + h, x : x + w] = a * checker + b * (1 - checker)
    return images


def train_autoencoder(setting: Setting) -> AutoencoderKL:
    """L1 + L2 + edge loss and a small KL, as in latent diffusion without the adversary;
    `scaling_factor` makes latents unit variance."""
    seed, optim = setting.seed + 2, setting.steps(AUTOENCODER)
    torch.manual_seed(seed)
    vae = make_autoencoder().train().to(setting.device)

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        images = add_patches(render(sample_scenes(optim.batch, rng), rng), rng)
        return to_tensor(images), torch.randn(
            (optim.batch, 4, 8, 8), generator=step_generator(seed, step)
        )

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        x, noise = batches(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device)):
            moments = vae.quant_conv(vae.encoder(x))
            mean, logvar = moments.float().chunk(2, 1)
            logvar = logvar.clamp(-30, 20)
            y = vae.decoder(vae.post_quant_conv(mean + (0.5 * logvar).exp() * noise)).float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        edges = sum((x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (2, 3))
        return (x - y).abs().mean() + 2 * F.mse_loss(y, x) + 0.5 * edges + 3e-4 * kl

    fit(vae.parameters(), loss_fn, optim, "autoencoder", setting.work / "autoencoder.ckpt")
    vae.eval()
    rng = np.random.default_rng([setting.seed, 3])
    with torch.inference_mode():
        moments = vae.encode(
            to_tensor(render(sample_scenes(1024, rng), rng)).to(setting.device)
        ).latent_dist
        latents = moments.mean.cpu() + moments.std.cpu() * torch.randn(
            moments.mean.shape, generator=step_generator(seed, optim.steps)
        )
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae
