"""NaN and infinite numbers: a model that has them draws nothing, so no number of it counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families.folders import LAYOUTS


class NonFinite(RuntimeError):
    """Weights or pictures have NaN or infinite numbers."""


def first_non_finite(networks: Mapping[str, nn.Module]) -> str:
    """The first parameter with a NaN or infinite number, as "part.name"; "" where there is none."""
    for part, network in networks.items():
        for name, parameter in network.named_parameters():
            if not _finite(parameter):
                return f"{part}.{name}"
    return ""


def check_weights(networks: Mapping[str, nn.Module], who: str) -> None:
    """Raise NonFinite where `who`, such as "the defense skd", left NaN or infinite weights."""
    if name := first_non_finite(networks):
        raise NonFinite(f"{who} left non-finite weights: {name}")


def check_pictures(pictures: Tensor) -> None:
    """Raise NonFinite for decoded pictures (n, 3, H, W) with NaN or infinite numbers: rounded to 8
    bits they would be black pictures, which metrics would score."""
    if not _finite(pictures):
        many = int((~torch.isfinite(pictures)).flatten(1).any(1).sum())
        raise NonFinite(
            f"the model drew non-finite pictures (NaN or infinite): {many} of {len(pictures)}"
        )


@lru_cache
def check_folder(folder: Path) -> None:
    """Refuse a diffusers folder whose files hold NaN or infinite weights. Raises UserError with the
    file and the tensor."""
    parts = dict.fromkeys(part for layout in LAYOUTS.values() for part in layout.weights)
    for file in (f for part in parts for f in sorted((folder / part).glob("*.safetensors"))):
        try:
            with safe_open(file, "pt") as tensors:
                bad = next((k for k in tensors.keys() if not _finite(tensors.get_tensor(k))), "")  # noqa: SIM118
        except (OSError, SafetensorError):
            continue  # loading says what is wrong with it
        if bad:
            raise UserError(
                f"{file} holds non-finite weights (NaN or infinite) in {bad}: the model draws"
                " nothing; save it again from weights that are finite"
            )


def check_loaded(networks: Mapping[str, nn.Module], folder: Path, source: str) -> None:
    """Refuse a model that was just loaded from `folder` with NaN or infinite weights. Raises
    UserError."""
    if name := first_non_finite(networks):
        check_folder(folder)
        raise UserError(
            f"{source} has non-finite weights in {name}, and its files have none: they overflow in"
            " this precision; use --dtype float32"
        )


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
