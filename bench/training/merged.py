"""Adapters that are merged into a model's weights: the same model with them at another scale, or
with another adapter beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2i_backdoor_bench.models.adapters import Adapter
from t2i_backdoor_bench.models.model import T2IModel


def with_added(model: T2IModel, adapter: Adapter, times: float) -> T2IModel:
    """A copy of the model whose weights are W + times * B A."""
    changed = model.clone(encoders=True)
    networks = changed.edited
    with torch.no_grad():
        for name, (up, down) in adapter.items():
            part, _, layer = name.partition(".")
            weight = networks[part].get_submodule(layer).weight
            delta = up.to(weight.device) @ down.to(weight.device)
            weight.copy_(weight.float() + times * delta)
    return changed


def at_scale(model: T2IModel, scale: float) -> T2IModel:
    """The model with its own adapter, which is merged at the scale 1, at another `scale`. What
    else has changed in the weights, as by a repair, stays added."""
    return with_added(model, model.adapter, scale - 1)


def named(model: T2IModel, factors: Sequence[dict[str, tuple[Tensor, Tensor]]]) -> T2IModel:
    """The model with what was merged into each of its networks (`T2IModel.edited`, in their
    order) as its adapter."""
    adapter = {
        f"{part}.{layer}": pair
        for part, merged in zip(model.edited, factors, strict=False)
        for layer, pair in merged.items()
    }
    return replace(model, adapter=adapter)
