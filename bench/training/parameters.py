"""Which parameters of a model train, and what a network is after it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.checkpoints import Checkpoints
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.precision import HALF
from t2i_backdoor_bench.training.lora import RANK, add_lora, check_peft, merge_lora

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Trainable(Sequence[nn.Parameter]):
    """Parameters that train together. Those in half precision train as float32 ones
    (`as_trainable`).

    rates    learning rates as multiples of that of the training, one a parameter; none: all 1
    scaled   whether gradients pass through a float16 network, so that the loss has to be scaled
    checkpoints   where the training is kept, to go on after a kill: those of the model
    adam8bit      whether Adam's moments have 8 bits, whatever the method says
    """

    parameters: list[nn.Parameter]
    scaled: bool = False
    rates: list[float] = field(default_factory=list)
    checkpoints: Checkpoints = field(default_factory=Checkpoints, compare=False, repr=False)
    adam8bit: bool = False

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, i: int) -> nn.Parameter:
        return self.parameters[i]

    @property
    def by_rate(self) -> dict[float, list[nn.Parameter]]:
        """The parameters of each rate, in their order."""
        found: dict[float, list[nn.Parameter]] = {}
        for p, rate in zip(self.parameters, self.rates or [1.0] * len(self), strict=True):
            found.setdefault(rate, []).append(p)
        return found


def of_model(trained: Trainable, model: T2IModel) -> Trainable:
    """The same parameters with what the model says of every training in it."""
    return replace(trained, checkpoints=model.checkpoints, adam8bit=model.adam8bit)


def as_trainable(parameters: Iterable[nn.Parameter]) -> Trainable:
    """The same parameters in float32, which autocast casts down where it computes: an update of
    1e-6 would round to nothing in half."""
    chosen = list(parameters)
    scaled = any(p.dtype == torch.float16 for p in chosen)
    for p in chosen:
        if p.dtype in HALF:
            p.data = p.data.float()
    return Trainable(chosen, scaled)


def together(parts: Sequence[Trainable], rates: Sequence[float]) -> Trainable:
    """Several sets that train at once, each at its multiple of the learning rate."""
    return Trainable(
        [p for part in parts for p in part],
        any(part.scaled for part in parts),
        [rate for part, rate in zip(parts, rates, strict=True) for _ in part],
        parts[0].checkpoints,
        parts[0].adam8bit,
    )


def choose_parameters(model: T2IModel, train: str, rank: int = RANK) -> Trainable:
    """Let gradients flow to a part of the denoiser (`Family.is_trained`), or to adapters of a rank
    that are put into it ("lora"), and to nothing else in it."""
    if train not in TRAIN:
        raise ValueError(f"train={train!r} is not one of {', '.join(TRAIN)}")
    if train == "lora":
        adapted = adapt(model.denoiser, model.family.lora_targets, rank)
        return of_model(adapted, model)
    chosen = []
    for name, p in model.denoiser.named_parameters():
        p.requires_grad_(model.family.is_trained(name, train))
        if p.requires_grad:
            chosen.append(p)
    return of_model(as_trainable(chosen), model)


def last_blocks(model: T2IModel, many: int, norms: bool = False) -> Trainable:
    """Let gradients flow to the last `many` blocks of the denoiser (`Family.blocks`), or to their
    normalization layers alone, and to nothing else in it. Raises UserError where it has fewer
    blocks, or none of these layers with weights."""
    found = model.family.blocks(model.denoiser)
    if many > len(found):
        raise UserError(f"{many} blocks are to train, and this denoiser has {len(found)} blocks")
    modules = [m for block in found[-many:] for m in block.modules()]
    kinds = NORMS if norms else nn.Module
    chosen = [p for m in modules if isinstance(m, kinds) for p in m.parameters(recurse=False)]
    if not chosen:
        raise UserError(
            "the last blocks of this denoiser have no normalization with weights: train all of them"
        )
    model.denoiser.requires_grad_(False)
    for p in chosen:
        p.requires_grad_(True)
    return of_model(as_trainable(chosen), model)


def adapt(network: nn.Module, targets: Sequence[str], rank: int, **config: Any) -> Trainable:
    """Adapters round the projections `targets` of a network, which train alone. `config`: as in
    `add_lora`."""
    scaled = any(p.dtype == torch.float16 for p in network.parameters())
    return Trainable(add_lora(network, targets, rank, **config), scaled)


def finish_training(*networks: nn.Module) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Nothing trains any more, and adapters are merged into plain weights. Gives what was merged
    into each network (`merge_lora`)."""
    merged = [merge_lora(network) for network in networks]
    for network in networks:
        network.requires_grad_(False)
    return merged


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
