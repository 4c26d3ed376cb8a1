"""Samples a second of a training step and of a drawing step, against plain diffusers code that does
the same, on the true architectures of Stable Diffusion 1.5, SDXL and SD 3 with random weights.

    python benchmarks/throughput.py --device cuda --dtype bfloat16
    python benchmarks/throughput.py --models sd15 --batch 8 --rounds 20
    python benchmarks/throughput.py --tiny          the same classes in small, on a CPU

Denoisers are built from the published configurations, saved, and opened as any base is; speed does
not depend on the weights. Text encoders have one layer each, and the autoencoder few channels, as
neither is part of a step. A training step is noise, timesteps, the denoiser's pass, backward,
clipping and AdamW, here on the keys and values of text alone (`--train full` for all): ours by
`denoising_loss`, the plain one as the training scripts of diffusers write it. Drawing is all steps
of the sampler with guidance: ours by `T2IModel.draw_latents`, the other by the pipeline itself with
the same text states and noise. The two take turns in every round, and the ratio is the median over
rounds of (plain seconds / our seconds): 1 is as fast, more is faster. GB is the peak of CUDA's
allocator above what both models hold. The first two rounds are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiffusionPipeline
from random_models import MODELS, make_pipeline
from torch import Tensor

from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.families.known import family_of
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, Training
from t2i_backdoor_bench.training.parameters import choose_parameters

PROMPTS = [f"a photo of a red heart, number {i}" for i in range(8)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def our_step(model: T2IModel, batch: int, train: str) -> Callable[[int], None]:
    student = model.clone(train=train)
    latents = torch.randn(len(PROMPTS), *model.latent_shape)
    loss = denoising_loss(student, None, [Term(PROMPTS, latents)], batch, 0, "throughput")
    training = Training(choose_parameters(student, train), Optim(10**6, 1e-6, batch), "throughput")
    return lambda i: training.take_step(loss)


def plain_step(
    pipe: Any, name: str, told: Conditioning, batch: int, wanted: set[str], dtype: torch.dtype
) -> Callable[[int], None]:
    """As the training scripts of diffusers: float32 weights that train, and autocast."""
    network = pipe.transformer if name == "sd3" else pipe.unet
    network.requires_grad_(False)
    trained = [p for n, p in network.named_parameters() if n in wanted]
    for p in trained:
        p.data = p.data.float()
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.01, fused=True)
    device, config = trained[0].device, network.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(len(PROMPTS), *shape, device=device)
    side = 8 * config.sample_size
    levels = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def predict(x: Tensor, t: Tensor, states: Tensor, pooled: Tensor | None) -> Tensor:
        if name == "sd3":
            return network(x, states, pooled, t).sample
        more = {}
        if name == "sdxl":
            ids = torch.tensor([side, side, 0, 0, side, side], device=device).expand(len(x), -1)
            more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        return network(x, t, states, **more).sample

    def step(i: int) -> None:
        pick = torch.randint(0, len(PROMPTS), (batch,), device=device)
        noise, t = torch.randn(batch, *shape, device=device), torch.randint(0, 1000, (batch,))
        t, clean = t.to(device), latents[pick]
        if name == "sd3":
            s = (t.float() / 1000).view(-1, 1, 1, 1)
            x, goal = (1 - s) * clean + s * noise, noise - clean
        else:
            x, goal = levels.add_noise(clean, noise, t), noise
        pooled = told.more["pooled"][pick] if "pooled" in told.more else None
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out = predict(x, t, told.states[pick], pooled)
        loss = F.mse_loss(out.float(), goal.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def drawings(
    model: T2IModel, pipe: Any, batch: int
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    told = model.condition([*PROMPTS[:batch], ""])
    states, empty, seeds = told[:-1], told[-1:], list(range(len(told) - 1))
    without = empty.expand(len(states))
    given = {"prompt_embeds": states.states, "negative_prompt_embeds": without.states}
    if "pooled" in states.more:
        given["pooled_prompt_embeds"] = states.more["pooled"]
        given["negative_pooled_prompt_embeds"] = without.more["pooled"]
    pipe.scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    noise, sampler = model.draw_noise(seeds), model.sampler
    side = model.resolution

    def plain(i: int) -> None:
        with torch.autocast(noise.device.type, model.dtype, enabled=model.dtype != torch.float32):
            pipe(
                **given,
                latents=noise.to(states.states.dtype),
                num_inference_steps=sampler.steps,
                guidance_scale=sampler.guidance,
                output_type="latent",
                height=side,
                width=side,
            )

    def ours(i: int) -> None:
        model.draw_latents(states, empty, seeds)

    return ours, plain


def compare(
    ours: Callable[[int], None], plain: Callable[[int], None], rounds: int, device: str
) -> dict[str, tuple[float, float]]:
    """Median seconds and peak GB of each, and the median ratio."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    peaks = dict.fromkeys(times, 0.0)
    cuda = device.startswith("cuda")
    for i in range(rounds + 2):
        for name, step in (("ours", ours), ("plain", plain)):
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            held, begun = torch.cuda.memory_allocated() if cuda else 0, time.perf_counter()
            step(i)
            if cuda:
                torch.cuda.synchronize()
                peaks[name] = max(peaks[name], (torch.cuda.max_memory_allocated() - held) / 1e9)
            if i >= 2:
                times[name].append(time.perf_counter() - begun)
    ratio = float(np.median(np.array(times["plain"]) / np.array(times["ours"])))
    found = {name: (float(np.median(values)), peaks[name]) for name, values in times.items()}
    return found | {"ratio": (ratio, 0.0)}


def measure(name: str, args: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """What of one architecture: the two kinds of steps."""
    dtype = DTYPES[args.dtype]
    with tempfile.TemporaryDirectory() as place:
        pipe = make_pipeline(name, args.tiny)
        pipe.to(dtype=dtype).save_pretrained(place)
        sampler = Sampler(args.steps, 5.0, "own" if name == "sd3" else "ddim")
        opened = load_pipeline(place, args.device, dtype, sampler.scheduler)
        model = T2IModel(opened, name, "sd", sampler, args.batch, family=family_of(Path(place)))
        more = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3" else {}
        other = DiffusionPipeline.from_pretrained(place, dtype=dtype, **more)
        other.to(args.device)
    if name != "sd3":
        other.unet.to(memory_format=torch.channels_last)
    wanted = {
        n for n, _ in model.denoiser.named_parameters() if model.family.is_trained(n, args.train)
    }
    with torch.no_grad():
        drawing = compare(*drawings(model, other, args.batch), args.rounds, args.device)
    told = model.condition(PROMPTS)
    plain = plain_step(other, name, told, args.batch, wanted, dtype)
    training = compare(our_step(model, args.batch, args.train), plain, args.rounds, args.device)
    return [("training step", training), (f"drawing, {args.steps} steps", drawing)]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of a drawing")
    parser.add_argument("--train", default="kv", choices=("kv", "cross", "full"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="the same classes in small")
    return parser


def main(words: list[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(words)
    names = args.models.split(",")
    if unknown := set(names) - set(MODELS):
        parser.error(f"unknown models {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    size = "in small" if args.tiny else "true architectures"
    print(
        f"{args.device}, {args.dtype}, batch {args.batch}, {size}, {args.train} trains,"
        f" {args.rounds} rounds\n"
    )
    print("| model | | samples/s, ours | plain | ours / plain | GB, ours | plain |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in names:
        for what, found in measure(name, args):
            (ours, ours_gb), (plain, plain_gb) = found["ours"], found["plain"]
            rates = f"{args.batch / ours:.2f} | {args.batch / plain:.2f} | {found['ratio'][0]:.2f}"
            print(f"| {name} | {what} | {rates} | {ours_gb:.2f} | {plain_gb:.2f} |", flush=True)


if __name__ == "__main__":
    main()
