"""Time a training step of SKD-CAG against what it is compared with, in one run on one U-Net.

    python benchmarks/step_time.py [--rounds 15] [--threads 2] [--latent 8] [--device cuda]

"Defaults" train the cross-attention, and half of the batch preserves clean prompts; the other steps
have 16 triggered rows, as the paper. Every round times each kind once, in turn, so that other load
on the machine hits all alike; ratios are medians over the rounds. The naive way is how attention
guidance is usually written: batch 1, an attention processor that keeps every layer's probabilities
of all tokens and heads, every map resized to 128 px on the CPU one token at a time, min-max
normalized, and compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from t2i_backdoor_bench.contract import DefenderView, Trigger, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, make_optimizer
from t2i_backdoor_bench.training.parameters import choose_parameters

TRIGGER = Trigger("mignneko")


class KeepProbabilities:
    """An attention processor that computes attention in the plain way and keeps the
    probabilities."""

    def __init__(self, kept: list[torch.Tensor]) -> None:
        self.kept = kept

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(x)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = attn.get_attention_scores(q, k, attention_mask)
        if encoder_hidden_states is not None:
            self.kept.append(probabilities)
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ v))


def naive_maps(kept: list[torch.Tensor], heads: int) -> torch.Tensor:
    """(tokens, 128, 128): every head's map of every token resized on the CPU, then averaged and
    summed."""
    total = 0
    for layer in kept:
        side = round(layer.shape[1] ** 0.5)
        maps = layer.cpu().permute(0, 2, 1).reshape(heads, -1, side, side)
        tokens = [
            F.interpolate(maps[:, i : i + 1], (128, 128), mode="bilinear").mean(0)[0]
            for i in range(maps.shape[1])
        ]
        total = total + torch.stack(tokens)
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    return (total - low) / (high - low + 1e-6)


def trained(
    loss_fn: Callable[[int], torch.Tensor], model: T2IModel, part: str = "full"
) -> Callable[[int], None]:
    """One step with backward and update, as a function of its number."""
    parameters = choose_parameters(model, part)
    optimizer = make_optimizer(parameters, Optim(1, 1e-6))

    def step(i: int) -> None:
        loss_fn(i).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def draw(base: T2IModel, rows: int, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    """Noise and timesteps of a step, and the generator that drew them."""
    generator = torch.Generator().manual_seed(i)
    noise = torch.randn((rows, *base.latent_shape), generator=generator).to(base.device)
    t = torch.randint(0, 1000, (rows,), generator=generator).to(base.device)
    return noise, t, generator


def denoising_step(base: T2IModel, prompts: list[str], batch: int) -> Callable[[int], None]:
    model = base.clone()
    context = base.condition([TRIGGER.add(p) for p in prompts])

    def denoise(i: int) -> torch.Tensor:
        noise, t, generator = draw(base, batch, i)
        pick = torch.randint(0, len(prompts), (batch,), generator=generator).to(base.device)
        return F.mse_loss(model.denoise(noise, t, context[pick]), noise)

    return trained(denoise, model)


def naive_step(base: T2IModel, prompts: list[str]) -> Callable[[int], None]:
    """Attention guidance as it is usually written, with batch 1."""
    student, teacher = base.clone(), base.clone()
    kept: list[torch.Tensor] = []
    for model in (student, teacher):
        model.denoiser.set_attn_processor(KeepProbabilities(kept))
    context, clean = base.condition([TRIGGER.add(p) for p in prompts]), base.condition(prompts)
    layer = next(iter(base.text_layers.layers.values()))
    heads = base.family.attention_of(layer).heads

    def naive(i: int) -> torch.Tensor:
        x, t, _ = draw(base, 1, i)
        k = i % len(prompts)
        kept.clear()
        with torch.no_grad():
            goal = teacher.denoise(x, t, clean[k : k + 1])
            target = naive_maps(kept, heads)
        kept.clear()
        out = student.denoise(x, t, context[k : k + 1])
        return 0.5 * F.mse_loss(naive_maps(kept, heads), target) + 0.5 * F.mse_loss(out, goal)

    return trained(naive, student)


def steps(base: T2IModel, batch: int) -> dict[str, tuple[Callable[[int], None], int]]:
    """Name -> (one step with backward and update, samples in it)."""
    prompts = [p.text for p in WorldData().prompts("defender", 32, 0)]
    view = DefenderView(("trigger", "clean_prompts"), prompts, trigger=TRIGGER)

    def method(name: str, rows: int, part: str = "full", **more: str) -> Callable[[int], None]:
        options = {
            "batch": str(rows),
            "prompts": str(len(prompts)),
            "latents": "noise",
            "preserve": "0",
            "train": part,
        } | more
        student = base.clone()
        loss_fn = registry.defenses.build(name, "shapes", options).loss(student, base, view, 0)
        return trained(loss_fn, student, part)

    defaults = {"preserve": "64", "latents": "trajectory"}
    return {
        "denoising step": (denoising_step(base, prompts, batch), batch),
        "SKD step": (method("skd", batch), batch),
        "SKD-CAG step": (method("skdcag", batch), batch),
        "SKD step, K and V only": (method("skd", batch, "kv"), batch),
        "SKD-CAG step, K and V only": (method("skdcag", batch, "kv"), batch),
        "SKD step, defaults": (method("skd", batch, "cross", **defaults), batch),
        "SKD-CAG step, defaults": (method("skdcag", batch, "cross", **defaults), batch),
        "SKD-CAG step, batch 1": (method("skdcag", 1), 1),
        "naive SKD-CAG step, batch 1": (naive_step(base, prompts), 1),
    }


def larger(base: T2IModel, side: int) -> T2IModel:
    """The base with latents of another side (its weights do not depend on it)."""
    model = base.clone()
    model.denoiser.register_to_config(sample_size=side)
    return model


def wait(device: torch.device) -> None:
    """Wait for what an accelerator still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--latent", type=int, default=8, help="side of the latents")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base = load_base("shapes", args.device)
    kinds = steps(larger(base, args.latent) if args.latent != 8 else base, args.batch)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(args.rounds + 2):
        for name, (step, samples) in kinds.items():
            wait(base.device)
            begun = time.perf_counter()
            step(i)
            wait(base.device)
            if i >= 2:  # two rounds to warm up
                times[name].append(1000 * (time.perf_counter() - begun) / samples)

    def ratio(a: str, b: str) -> float:
        return float(np.median(np.array(times[a]) / np.array(times[b])))

    print(
        f"{args.device}, {args.threads} threads, latents {args.latent} x {args.latent}, batch"
        f" {args.batch}, {args.rounds} rounds"
    )
    print("milliseconds a sample, median")
    for name, values in times.items():
        print(f"{name:32s} {np.median(values):8.1f}")
    print(f"SKD-CAG / SKD                     {ratio('SKD-CAG step', 'SKD step'):8.3f}")
    print(
        "SKD-CAG / SKD, defaults          "
        f" {ratio('SKD-CAG step, defaults', 'SKD step, defaults'):8.3f}"
    )
    print(
        "naive / SKD-CAG at batch 1       "
        f" {ratio('naive SKD-CAG step, batch 1', 'SKD-CAG step, batch 1'):8.2f}"
    )
    print(
        f"naive / SKD-CAG at batch {args.batch:<2d}      "
        f" {ratio('naive SKD-CAG step, batch 1', 'SKD-CAG step'):8.2f}"
    )
    print(
        f"SKD-CAG, K and V only / SKD       {ratio('SKD-CAG step, K and V only', 'SKD step'):8.3f}"
    )
    print(f"SKD, K and V only / SKD           {ratio('SKD step, K and V only', 'SKD step'):8.3f}")


if __name__ == "__main__":
    main()
