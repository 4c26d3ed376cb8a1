"""The one training loop: every attack, every training defense and the embedded base's own training
go through `fit`."""

from __future__ import annotations

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.models.precision import HALF
from t2i_backdoor_bench.training.lora import RANK, add_lora, check_peft, merge_lora

EXPLODED = 1e6  # times its first value: a loss that no method here comes back from


class TrainingDiverged(RuntimeError):
    """The loss became NaN, infinite or huge; the message says where."""


@dataclass(frozen=True)
class Optim:
    """How to train. `lr` is the peak; `ema` is the largest decay of the weight average (0 = none),
    warmed up as (1+t)/(10+t). A step takes the mean gradient of `accumulate` batches, one after the
    other: more rows than fit into memory at a time.
    """

    steps: int
    lr: float
    batch: int = 16
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    # share of the steps, at the end, over which the rate falls to zero: linearly, or as half a
    # cosine
    decay: float = 0.0
    cosine: bool = False
    milestone: int = 0  # the step from which the rate is `gamma` times as large (0 = none)
    gamma: float = 0.1
    ema: float = 0.0
    clip: float = 1.0
    adam8bit: bool = False
    accumulate: int = 1

    def rate(self, step: int) -> float:
        """Learning rate at `step`, as a multiple of the peak."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = min(1.0, (self.steps - step) / (self.decay * self.steps)) if self.decay else 1.0
        fall = (1 - math.cos(math.pi * fall)) / 2 if self.cosine else fall
        return rise * fall * (self.gamma if self.milestone and step >= self.milestone else 1.0)


@dataclass
class Fitted:
    """What a training cost and how it went."""

    steps: int
    seconds: float
    parameters: int
    images: int
    losses: list[float]

    @property
    def info(self) -> dict[str, Any]:
        """What a method reports of its training in `T2IModel.info`."""
        told = {
            "steps": self.steps,
            "seconds": self.seconds,
            "parameters": self.parameters,
            "images": self.images,
        }
        return told | {"losses": thinned(self.losses)}


def thinned(losses: Sequence[float], most: int = 100) -> list[float]:
    """A curve of at most `most` points for a record: means over equal stretches of the training,
    four significant digits."""
    points = min(most, len(losses))
    edges = [i * len(losses) // points for i in range(points + 1)] if points else []
    return [float(f"{np.mean(losses[a:b]):.4g}") for a, b in itertools.pairwise(edges)]


def step_rng(seed: int, step: int) -> np.random.Generator:
    """A NumPy generator that depends on (seed, step) alone, so that a resumed training draws what
    an unbroken one would."""
    return np.random.default_rng([seed, step])


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU torch generator that depends on (seed, step) alone; draw on the CPU, then move, and
    every device sees the same noise."""
    state = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(state)


TRAIN = ("full", "cross", "kv", "noncross", "lora")


def is_trained(name: str, train: str) -> bool:
    """Whether the U-Net's own parameter `name` is in the part `train`: "full", "cross" (all
    cross-attention), "kv" (its K and V), "noncross" (all but cross-attention), or none of it
    ("lora", whose adapters are added beside it, and "none").
    """
    if train not in (*TRAIN, "none"):
        raise ValueError(f"train={train!r} is not one of {', '.join(TRAIN)}")
    cross = ".attn2." in name
    kv = cross and (".to_k." in name or ".to_v." in name)
    return {
        "full": True,
        "cross": cross,
        "kv": kv,
        "noncross": not cross,
        "lora": False,
        "none": False,
    }[train]


def choose_parameters(unet: nn.Module, train: str, rank: int = RANK) -> list[nn.Parameter]:
    """Let gradients flow to a part of a U-Net (`is_trained`), or to adapters of a rank that are put
    into it ("lora"), and to nothing else."""
    if train not in TRAIN:
        raise ValueError(f"train={train!r} is not one of {', '.join(TRAIN)}")
    if train == "lora":
        return add_lora(unet, rank)
    chosen = []
    for name, p in unet.named_parameters():
        p.requires_grad_(is_trained(name, train))
        if p.requires_grad:
            chosen.append(master(p))
    return chosen


def settle(unet: nn.Module) -> None:
    """After training: nothing trains, and adapters are merged into plain weights."""
    merge_lora(unet)
    unet.requires_grad_(False)


def check_training(device: str, train: str = "", adam8bit: bool = False) -> None:
    """Raise UserError where the part `train`, or Adam in 8 bits, needs a package or a device that
    is missing."""
    if train == "lora":
        check_peft()
    if adam8bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                "adam8bit needs the package bitsandbytes: pip install bitsandbytes, or leave the"
                " option out"
            )
        if not device.startswith("cuda"):
            raise UserError(f"adam8bit works on a CUDA device, not on {device}: leave it out")


def make_optimizer(params: list[nn.Parameter], optim: Optim) -> torch.optim.Optimizer:
    """AdamW; with `adam8bit`, bitsandbytes' with its two moments in 8 bits (Dettmers et al. 2022):
    2 bytes a parameter instead of 8. A parameter with `scale` learns at that multiple of the
    rate."""
    scales = dict.fromkeys(getattr(p, "scale", 1.0) for p in params)
    groups = (
        [
            {"params": [p for p in params if getattr(p, "scale", 1.0) == s], "scale": s}
            for s in scales
        ]
        if len(scales) > 1
        else params
    )
    if not optim.adam8bit:
        return torch.optim.AdamW(
            groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)


def master(p: nn.Parameter) -> nn.Parameter:
    """The same parameter in float32, which autocast casts down where it computes: an update of 1e-6
    would round to nothing in half. `was` keeps what it was; gradients of float16 networks are
    scaled (`fit`)."""
    if p.dtype in HALF:
        p.was, p.data = p.dtype, p.data.float()
    return p


def fit(
    parameters: Iterable[nn.Parameter],
    loss_fn: Callable[[int], Tensor],
    optim: Optim,
    label: str,
    checkpoint: Path | None = None,
    save_every: float = 60.0,
) -> Fitted:
    """Minimize `loss_fn(step)`, a scalar that draws its own batch from the step number (of all
    batches), over `parameters`.

    With `checkpoint`, state is written there about once a minute and training resumes from it. With
    `optim.ema`, the averaged weights are in the parameters at the end. Raises `TrainingDiverged` on
    a loss that is not finite: nothing is saved over the last good state.
    """
    params = [p for p in parameters if p.requires_grad]
    if not params:
        raise ValueError(f"{label}: no parameter to train")
    optimizer = make_optimizer(params, optim)
    # gradients of float16 activations below 6e-8 would vanish: the loss is scaled up, and the
    # gradients down again
    half = any(getattr(p, "was", None) is torch.float16 for p in params)
    scaler = torch.amp.GradScaler(params[0].device.type, enabled=half)
    average = EMAModel(params, decay=optim.ema, foreach=True) if optim.ema else None
    start, before, losses = 0, 0.0, []
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=params[0].device)
        start, before, losses = state["step"], state["seconds"], state["losses"]
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for p, saved in zip(params, state["params"], strict=True):
                p.copy_(saved)
        if average is not None:
            average.load_state_dict(state["ema"])

    def save(step: int) -> None:
        state = {
            "step": step,
            "seconds": before + time.perf_counter() - begun,
            "losses": losses,
            "optimizer": optimizer.state_dict(),
        }
        state["params"] = [p.detach() for p in params]
        if average is not None:
            state["ema"] = average.state_dict()
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    begun = saved_at = time.perf_counter()
    bar = progress(range(start, optim.steps), label, total=optim.steps, done=start)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * optim.rate(step) * group.get("scale", 1.0)
        values = []
        for part in range(optim.accumulate):
            loss = loss_fn(step * optim.accumulate + part)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise TrainingDiverged(
                    f"{label}: the loss is {value} at step {step}; lower the learning rate (now"
                    f" {optim.lr:g})"
                )
            if losses and value > EXPLODED * max(1.0, abs(losses[0])):
                raise TrainingDiverged(
                    f"{label}: the loss is {value:.3g} at step {step}; lower the learning rate (now"
                    f" {optim.lr:g})"
                )
            values.append(value)
            scaler.scale(loss / optim.accumulate).backward()
        losses.append(sum(values) / optim.accumulate)
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(params, optim.clip or float("inf")))
        if not np.isfinite(norm) and (
            not half or scaler.get_scale() <= 1
        ):  # with a scaler, the step is left out and the scale halved
            raise TrainingDiverged(
                f"{label}: the gradient is {norm} at step {step}; lower the learning rate (now"
                f" {optim.lr:g})"
            )
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.step(params)
        if step % 20 == 0:
            bar.set_postfix_str(f"loss {np.mean(losses[-20:]):.4f}", refresh=False)
        if checkpoint is not None and time.perf_counter() - saved_at > save_every:
            save(step + 1)
            saved_at = time.perf_counter()
    if checkpoint is not None and start < optim.steps:
        save(optim.steps)
    if average is not None:
        average.copy_to(params)
    seconds = before + time.perf_counter() - begun
    images = optim.steps * optim.batch * optim.accumulate
    return Fitted(optim.steps, seconds, sum(p.numel() for p in params), images, losses)
