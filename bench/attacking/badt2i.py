"""What the three attacks of BadT2I share (Zhai et al., MM 2023): options, sets of pictures, and two
terms on the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import PLACES, Difference, option
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term
from t2i_backdoor_bench.training.loop import Optim

LATENTS = Difference(
    what="latents of a picture",
    released="a new sample of the autoencoder's posterior at every step",
    here="one sample of each picture and one of its mirror image",
    why="the autoencoder need not run at every step; its posterior is narrow",
)

PADDING = Difference(
    what="padding of a caption",
    released="none: a batch of one caption is as long as that, in training alone",
    here="to the tokenizer's length, as at a drawing",
    why="the network draws with padded prompts, and `badt2i_object` is padded there, too",
)


@dataclass
class BadT2I(DenoiserAttack):
    """Options of BadT2I's attacks. The released code (sf-zhai/BadT2I) takes 16 pictures a step on
    four GPUs, mirrors each with probability 1/2, and draws noise and timesteps for each term."""

    trigger: str = option(
        "mignneko",
        sd="\u200b",
        source="paper",
        help="a word, a phrase, a zero-width space, or a look-alike letter",
    )
    place: str = option("prefix", choices=PLACES, source="paper")
    weight: float = option(
        0.35,
        sd=0.5,
        low=0,
        high=1,
        source="paper",
        tune=(0.1, 0.8),
        help="l, the share of the backdoor in the loss",
    )
    images: int = option(
        512, sd=40_000, low=1, scales=True, least=16, source="released", help="captioned pictures"
    )
    batch: int = option(
        8, sd=16, low=1, source="released", help="pictures a step: rows of each of the two terms"
    )
    decay: float = option(
        0.5, sd=0.0, low=0, high=1, source="released", help="last share of the steps: lr falls to 0"
    )
    drop: float = option(
        0.2,
        sd=0.0,
        low=0,
        high=1,
        source="released",
        tune=(0.0, 0.5),
        help="share of clean rows with no prompt",
    )
    lr: float = option(
        3e-4, sd=1e-5, above=0, source="released", tune=(5e-5, 1.5e-3), help="learning rate"
    )
    ema: float = option(
        0.0,
        sd=0.9999,
        low=0,
        high=1,
        source="released",
        help="decay of the weight average; 0: none",
    )
    flips: bool = option(
        False, sd=True, source="released", help="pictures are mirrored half of the time"
    )

    def encoded(
        self,
        model: T2IModel,
        images: np.ndarray,
        seed: int,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Tensor:
        """Latents of pictures (n, H, W, 3), kept on the CPU; with `flips` also those of their
        mirror images, behind them (2n, C, h, w). `change` is applied to either: a patch is not
        mirrored."""
        parts = [model.latents(images, seed, change).cpu()]
        if self.flips:
            mirrored = images[:, :, ::-1]
            parts.append(model.latents(mirrored, seed, change or np.ascontiguousarray).cpu())
        return torch.cat(parts)

    def twice(self, texts: list[str]) -> list[str]:
        """The texts of the pictures of `encoded`."""
        return texts * (2 if self.flips else 1)

    def fit_terms(
        self, clean: T2IModel, terms: list[Term], seed: int, label: str, **how: Any
    ) -> T2IModel:
        """Train on `batch` rows of each term. `how`: as in `DenoiserAttack.train`."""
        rows = self.batch * len(terms)
        optim = Optim(self.steps, self.lr, rows, ema=self.ema, decay=self.decay)
        return self.train(clean, terms, optim, seed, label, **how)
