"""An adapter used in other ways than its maker did: at other scales, beside another one, and on
another base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from t2i_backdoor_bench.models.adapters import Adapter
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim
from t2i_backdoor_bench.training.merged import at_scale, named, with_added

STEPS, BATCH, DROP = 100, 16, 0.1
RATE = {"shapes": 1e-3, "sd": 1e-4}
SCALES = {"scale 0.5": 0.5, "scale 1.5": 1.5}
KINDS = (*SCALES, "another adapter beside it")


def trained(model: T2IModel, images: np.ndarray, captions: Sequence[str], seed: int) -> Adapter:
    """An adapter for the denoiser of `model`, from plain denoising of captioned images uint8 (n, H,
    W, 3)."""
    student = model.clone(train="lora")
    terms = [Term(captions, model.latents(images, seed), drop=DROP)]
    optim = Optim(STEPS, RATE[model.settings], BATCH)
    fitted = train_terms(student, None, terms, optim, seed, "benign adapter", train="lora")
    return named(student, [fitted.factors]).adapter


def kinds(n: int) -> list[str]:
    """How the adapter is used for each of n pictures: in turn."""
    return [KINDS[i % len(KINDS)] for i in range(n)]


def drawn(
    model: T2IModel, other: Adapter, prompts: Sequence[str], seeds: Sequence[int]
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of the prompts, each from its own noise, by `model` with its
    adapter as `kinds` says; `other` is the one beside it."""
    out = np.zeros((len(prompts), model.resolution, model.resolution, 3), np.uint8)
    each = np.array(kinds(len(prompts)))
    for kind in dict.fromkeys(each.tolist()):
        rows = np.flatnonzero(each == kind)
        used = at_scale(model, SCALES[kind]) if kind in SCALES else with_added(model, other, 1.0)
        out[rows] = used.generate([prompts[i] for i in rows], [seeds[i] for i in rows], kind)
    return out


def on_base(model: T2IModel, base: T2IModel, other: T2IModel) -> T2IModel:
    """The model on another base than its own: the weights of `other`, and what the model has beyond
    those of `base`, such as an adapter and a repair. What stands round the model stays. Raises
    ValueError where the two bases have other tensors."""
    moved = other.clone(encoders=True)
    with torch.no_grad():
        for part, network in moved.edited.items():
            ours, own = (dict(m.edited[part].named_parameters()) for m in (model, base))
            for name, p in network.named_parameters():
                if name not in own or own[name].shape != p.shape:
                    raise ValueError(f"{part}.{name} of the other base has no counterpart")
                change = ours[name].float() - own[name].float()
                p.copy_(p.float() + change.to(p.device))
    return replace(model, pipe=moved.pipe)
