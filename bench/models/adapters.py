"""The factors of low-rank adapters, kept beside the weights that they are merged into."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# of each projection, "unet.<layer>": B (out, rank) and A (rank, in), float32, so that W + B A is
# the merged weight; B has the scale alpha / rank in it
Adapter = Mapping[str, tuple[Tensor, Tensor]]
PREFIX = "adapter."


def to_state(adapter: Adapter) -> dict[str, Tensor]:
    """The factors by name, as they stand beside the weights of a model in one file."""
    return {
        f"{PREFIX}{name}.{side}": factor.detach().contiguous().clone()
        for name, factors in adapter.items()
        for side, factor in zip(("up", "down"), factors, strict=True)
    }


def from_state(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What `to_state` wrote, among other tensors."""
    names = [
        k[len(PREFIX) : -len(".up")] for k in state if k.startswith(PREFIX) and k[-3:] == ".up"
    ]
    return {name: (state[f"{PREFIX}{name}.up"], state[f"{PREFIX}{name}.down"]) for name in names}
