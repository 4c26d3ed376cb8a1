"""The one training loop: every attack, every training defense and the embedded base's own training
go through `fit`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.models.checkpoints import EVERY, Checkpoint, one_file, under
from t2i_backdoor_bench.training.parameters import Trainable

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
    # of adapters that were trained and merged: `merge_lora`
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

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


def make_optimizer(trained: Trainable, optim: Optim) -> torch.optim.Optimizer:
    """AdamW; with `adam8bit`, bitsandbytes' with its two moments in 8 bits (Dettmers et al. 2022):
    2 bytes a parameter instead of 8."""
    groups = [{"params": params, "rate": rate} for rate, params in trained.by_rate.items()]
    if not (optim.adam8bit or trained.adam8bit):
        return torch.optim.AdamW(
            groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)


def fit(
    parameters: Trainable | Iterable[nn.Parameter],
    loss_fn: Callable[[int], Tensor],
    optim: Optim,
    label: str,
    checkpoint: Path | None = None,
    save_every: float = EVERY,
) -> Fitted:
    """Minimize `loss_fn(step)`, a scalar that draws its own batch from the step number (of all
    batches), over `parameters`.

    State is written about once a minute, and a training that was killed goes on from it, to the
    same bits: into the run folder, where the model whose parameters train has a place for it
    (`Trainable.checkpoints`), or to the file `checkpoint`. With `optim.ema`, the averaged weights
    are in the parameters at the end. Raises `TrainingDiverged` on a loss that is not finite:
    nothing is saved over the last good state.
    """
    if not isinstance(parameters, Trainable):
        parameters = Trainable([p for p in parameters if p.requires_grad])
    if not len(parameters):
        raise ValueError(f"{label}: no parameter to train")
    training = Training(parameters, optim, label)
    kept = one_file(checkpoint, save_every) if checkpoint else parameters.checkpoints.next(label)
    training.load(kept)
    parameters.checkpoints.seconds += training.before
    start = training.step
    bar = progress(range(start, optim.steps), label, total=optim.steps, done=start)
    for step in bar:
        training.take_step(loss_fn)
        if step % 20 == 0:
            bar.set_postfix_str(f"loss {np.mean(training.losses[-20:]):.4f}", refresh=False)
        if kept.due():
            training.save(kept)
    if checkpoint is not None and start < optim.steps:
        training.save(kept)
    if training.average is not None:
        training.average.copy_to(training.params)
    numbers = sum(p.numel() for p in training.params)
    images = optim.steps * optim.batch * optim.accumulate
    return Fitted(optim.steps, training.seconds, numbers, images, training.losses)


class Training:
    """A training in progress: what a checkpoint holds, and how to take a step."""

    def __init__(self, trained: Trainable, optim: Optim, label: str) -> None:
        self.params, self.optim, self.label = list(trained), optim, label
        self.optimizer = make_optimizer(trained, optim)
        # gradients of float16 activations below 6e-8 would vanish: the loss is scaled up, and the
        # gradients down again
        self.scaled = trained.scaled
        self.scaler = torch.amp.GradScaler(self.params[0].device.type, enabled=trained.scaled)
        self.average = EMAModel(self.params, decay=optim.ema, foreach=True) if optim.ema else None
        self.step, self.before, self.losses = 0, 0.0, []
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.begun

    @property
    def about(self) -> str:
        """What a checkpoint must be of: parameters of these shapes, with these settings."""
        shapes = [list(p.shape) for p in self.params]
        return digest({"optim": asdict(self.optim), "shapes": shapes})

    def load(self, kept: Checkpoint) -> None:
        """Go on from what was kept of this training, if there is anything."""
        found = kept.load()
        if found is None or found[1].get("about") != self.about:
            return
        tensors, meta = found
        try:
            self.step, self.before = meta["step"], meta["seconds"]
            self.losses = tensors["losses"].tolist()
            self.restore(tensors, meta)
            kept.restore_carried(tensors)
            torch.set_rng_state(tensors["random"])
            if "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.params[0].device)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint of {self.label} is not what this program writes ({error}): remove"
                " the folder training in the run folder, and it begins anew"
            ) from None

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Weights, optimizer, average and scale of the loss as they were."""
        state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in meta["optimizer"].items()}
        for name, tensor in under("optimizer.", tensors).items():
            i, _, key = name.partition(".")
            state.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(meta["scaler"])
        with torch.no_grad():
            for i, p in enumerate(self.params):
                p.copy_(tensors[f"params.{i}"])
        if self.average is not None:
            self.average.optimization_step = meta["averaged"]
            for i, mean in enumerate(self.average.shadow_params):
                mean.copy_(tensors[f"average.{i}"])

    def save(self, kept: Checkpoint) -> None:
        tensors: dict[str, Tensor] = {f"params.{i}": p for i, p in enumerate(self.params)}
        meta: dict[str, Any] = {
            "about": self.about,
            "step": self.step,
            "seconds": self.seconds,
            "scaler": self.scaler.state_dict(),
            "optimizer": {},
        }
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items() if torch.is_tensor(v)}
            meta["optimizer"][i] = {k: v for k, v in state.items() if not torch.is_tensor(v)}
        if self.average is not None:
            meta["averaged"] = self.average.optimization_step
            tensors |= {f"average.{i}": p for i, p in enumerate(self.average.shadow_params)}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["random"] = torch.get_rng_state()
        if self.params[0].is_cuda:
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.params[0].device)
        kept.save(self.step, tensors, meta)

    def take_step(self, loss_fn: Callable[[int], Tensor]) -> None:
        """One step down the mean gradient of `accumulate` batches."""
        optim, step = self.optim, self.step
        for group in self.optimizer.param_groups:
            group["lr"] = optim.lr * optim.rate(step) * group.get("rate", 1.0)
        values = []
        for part in range(optim.accumulate):
            loss = loss_fn(step * optim.accumulate + part)
            self.scaler.scale(loss / optim.accumulate).backward()
            # read behind it: an accelerator has its work by then, and does not wait for us
            values.append(self.checked(float(loss.detach())))
        self.losses.append(sum(values) / optim.accumulate)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.params, optim.clip or float("inf")))
        # with a scaler, a step that is not finite is left out and the scale halved
        if not np.isfinite(norm) and (not self.scaled or self.scaler.get_scale() <= 1):
            raise self.diverged(f"the gradient is {norm}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.step(self.params)
        self.step += 1

    def checked(self, value: float) -> float:
        """A loss that is finite and not far above the first one. Raises TrainingDiverged."""
        if not np.isfinite(value):
            raise self.diverged(f"the loss is {value}")
        if self.losses and value > EXPLODED * max(1.0, abs(self.losses[0])):
            raise self.diverged(f"the loss is {value:.3g}")
        return value

    def diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{self.label}: {what} at step {self.step}; lower the learning rate (now"
            f" {self.optim.lr:g})"
        )
