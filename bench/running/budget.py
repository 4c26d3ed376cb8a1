"""What a run will need, before any work: GB and hours of each attack and defense, counted from the
model's configuration, and what to change where the device has less.

All of it is arithmetic. Nothing is measured, and a card is taken to compute at `RATES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2i_backdoor_bench.models.size import Size

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SCORERS = 1.7e9  # bytes of CLIP ViT-L-14 in float32
CHECKPOINTED = 0.15  # the share of activations that gradient checkpointing keeps
FREE = 0.92  # the share of a device's memory that tensors get
RATES = {"half": 2e13, "float32": 1e13, "cpu": 1e11}  # FLOPs a second
PICTURES = 3.2  # pictures a cell, as multiples of the prompts (`--n`): its conditions
GB = 1e9


@dataclass(frozen=True)
class Training:
    """What of one method takes memory and time: which `part` trains (one of
    `families.family.TRAIN`, "text_encoder", or "" for none), steps, rows a pass and passes a
    step."""

    name: str
    part: str
    steps: int = 0
    rows: int = 1
    accumulate: int = 1
    ema: bool = False
    adam8bit: bool = False
    teacher: bool = True


@dataclass(frozen=True)
class Machine:
    """`memory` in bytes; `dtype` of the model, and the ways of `--memory`."""

    device: str
    memory: float
    dtype: str
    ways: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        if self.device == "cpu":
            return RATES["cpu"]
        return RATES["float32" if self.dtype == "float32" else "half"]


@dataclass(frozen=True)
class Need:
    """What a method needs at its peak, in bytes, and its hours."""

    name: str
    weights: float
    trained: float
    activations: float
    hours: float

    @property
    def memory(self) -> float:
        return self.weights + self.trained + self.activations

    @property
    def text(self) -> str:
        parts = ("weights", self.weights), ("training", self.trained)
        parts = (*parts, ("activations", self.activations))
        inside = ", ".join(f"{name} {value / GB:.1f}" for name, value in parts if value)
        return f"{self.name}: about {self.memory / GB:.1f} GB ({inside}), {hours(self.hours)}"


def training_of(name: str, options: dict[str, Any], edits: str = "") -> Training:
    """What a method's options, and what an attack says that it `edits`, say of its training."""
    steps = int(options.get("steps") or 0)
    rows = int(options.get("batch") or 0)
    rows = rows or int(options.get("clean") or 0) + int(options.get("poisoned") or 0) or 1
    part = str(options.get("train") or _part(edits)) if steps else ""
    return Training(
        name,
        part,
        steps,
        rows,
        int(options.get("accumulate") or 1),
        bool(options.get("ema")),
        bool(options.get("adam8bit")),
    )


def _part(edits: str) -> str:
    """The part that an attack trains, of what it says that it edits."""
    if "LoRA" in edits:
        return "lora" if "U-Net" in edits else "text_lora"
    if "text encoder" in edits or "embedding" in edits:
        return "text_encoder"
    return "kv" if "K and V" in edits else "full" if "U-Net" in edits else ""


def need(size: Size, training: Training, machine: Machine) -> Need:
    """Memory and hours of one method."""
    low, ways = BYTES[machine.dtype], machine.ways
    idle = (
        0.0 if "offload" in ways and not training.part.startswith("text_") else low * size.encoders
    )
    idle += 0.0 if "offload" in ways else 4 * size.autoencoder + SCORERS
    weights = low * size.denoiser + idle
    if not training.part:
        return Need(training.name, weights, 0.0, 0.0, 0.0)
    encoder = training.part.startswith("text_")
    numbers = size.encoders if encoder else size.trained[training.part]
    moments = 2 if training.adam8bit or "adam8bit" in ways else 8
    # master weights, gradients, moments, average; the frozen copy is among the weights
    trained = float(numbers * (4 + 4 + moments + 4 * training.ema))
    if training.part == "text_lora":  # the adapters are few, and the weights are in float32
        trained = 4.0 * numbers
    share = CHECKPOINTED if "checkpointing" in ways else 1.0
    rows = training.rows
    activations = 0.0 if encoder else share * size.kept * low * rows
    # forward and backward are three passes, and the teacher's one more
    passes = training.steps * rows * training.accumulate * (3 + training.teacher)
    passes *= 4 / 3 if "checkpointing" in ways else 1.0
    flops = passes * (2.0 * size.encoders * 77 if encoder else size.flops)
    return Need(training.name, weights, trained, activations, flops / machine.rate / 3600)


def drawing_hours(size: Size, machine: Machine, cells: int, n: int, steps: int) -> float:
    """Hours that the pictures of the cells take, with guidance."""
    return cells * n * PICTURES * steps * 2 * size.flops / machine.rate / 3600


def too_large(needs: Iterable[Need], machine: Machine) -> list[Need]:
    return [n for n in needs if n.memory > FREE * machine.memory]


def advice(size: Size, trainings: Sequence[Training], machine: Machine) -> str:
    """One line for a device that has too little memory: the first changes with which all fits."""
    large = too_large([need(size, t, machine) for t in trainings], machine)
    if not large:
        return ""
    worst = max(large, key=lambda n: n.memory)
    begin = (
        f"{worst.name} needs about {worst.memory / GB:.0f} GB and {machine.device} has"
        f" {machine.memory / GB:.0f}"
    )
    changed, said = machine, []
    if machine.dtype == "float32" and machine.device != "cpu":
        changed = replace(changed, dtype="bfloat16")
        said = ["--dtype bfloat16"]
    extra: list[str] = []
    for way in ("", "checkpointing", "offload", "adam8bit"):
        if way and (way in machine.ways or (way != "checkpointing" and machine.device == "cpu")):
            continue
        if way:
            extra.append(way)
            changed = replace(changed, ways=(*changed.ways, way))
        if not too_large([need(size, t, changed) for t in trainings], changed):
            flags = [f"--memory {','.join([*machine.ways, *extra])}"] if extra else []
            return f"{begin}: run with {' '.join([*said, *flags])}"
    names = [t.name for t in trainings if too_large([need(size, t, changed)], changed)]
    flags = [*said, *([f"--memory {','.join([*machine.ways, *extra])}"] if extra else [])]
    start = f"even with {' '.join(flags)} that is" if flags else "that is"
    return (
        f"{begin}: {start} too much for {', '.join(names)}; take fewer rows at a time (--set"
        " NAME.batch=4 --set NAME.accumulate=4), train less (--set NAME.train=kv), or leave it out"
        " (--attacks cheap)"
    )


def hours(value: float) -> str:
    if not value:
        return "no training"
    return f"{60 * value:.0f} min" if value < 1 else f"{value:.1f} h"
