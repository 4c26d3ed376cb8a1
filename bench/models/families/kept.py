"""Weights that stay float32 in a model in half precision: those that a training changed and that
half would round. Files that this suite wrote say so (`models.saving`)."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import nn

from t2i_backdoor_bench.models.published.places import plain

SAYS = "t2i_backdoor_bench"
MARK = {"format": "pt", SAYS: "float32 stays float32"}  # in the header of a file


def keep_float32(network: nn.Module, part: Path) -> None:
    """Give a network in half precision, which was just loaded from the folder `part`, its float32
    weights back, where the files say that they stay."""
    own = {plain(name): parameter for name, parameter in network.named_parameters()}
    for file in sorted(part.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if (tensors.metadata() or {}).get(SAYS) != MARK[SAYS]:
                continue
            for key in tensors.keys():  # noqa: SIM118
                if plain(key) in own and tensors.get_slice(key).get_dtype() == "F32":
                    own[plain(key)].data = tensors.get_tensor(key)
