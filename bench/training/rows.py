"""Which rows a step of a removal draws: prompts, timesteps and noised latents, and beside them
those on which clean prompts are preserved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Trajectories, own_images
from t2i_backdoor_bench.training.loop import step_generator, step_rng

LATENTS = ("own", "noise", "trajectory")
KEPT = 10_007  # added to a seed for the trajectories of clean prompts


@dataclass(frozen=True)
class Rows:
    """n rows: which prompts (n,), timesteps (n,), noised latents (n, C, h, w); where they are
    noised pictures, these and the noise too, both (n, C, h, w)."""

    pick: Tensor
    t: Tensor
    x: Tensor
    pictures: Tensor | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class Noised:
    """Noised latents (many, C, h, w) of pictures, one a prompt; None: pure noise at every t."""

    model: T2IModel
    pictures: Tensor | None
    many: int
    bias: float = 1.0

    def draw(self, rng: np.random.Generator, generator: torch.Generator, n: int) -> Rows:
        device, noising = self.model.device, self.model.noising
        pick = torch.from_numpy(rng.integers(self.many, size=n)).to(device)
        t = noising.timesteps(n, generator, self.bias).to(device)
        noise = torch.randn((n, *self.model.latent_shape), generator=generator).to(device)
        pictures = None if self.pictures is None else self.pictures[pick]
        return Rows(pick, t, noising.add(pictures, noise, t), pictures, noise)


@dataclass(frozen=True)
class Drawn:
    """What a step draws: the rows that are repaired, those on which clean prompts are preserved,
    which of these are of the empty prompt, bool (n,), and the generator for what else is random."""

    rows: Rows
    kept: Rows
    gone: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Draws:
    """How rows are drawn: the options of a method (`trained_defense.TrainedDefense`)."""

    latents: str = "own"
    refresh: int = 250
    bias: float = 1.0
    drop: float = 0.0
    preserve: bool = False


@dataclass(frozen=True)
class RowSampler:
    """The rows of each step, by its number.

    noised      the rows that are repaired, unless `paths` gives them
    drop        the share of empty prompts among those preserved
    paths       trajectories of triggered prompts
    kept        the rows on which clean prompts are preserved; None: those that are repaired
    """

    seed: int
    noised: Noised
    drop: float
    paths: Trajectories | None = None
    kept: Noised | Trajectories | None = None

    @property
    def together(self) -> bool:
        """Whether clean prompts are preserved on the rows that are repaired."""
        return self.kept is None

    def __call__(self, step: int, n: int) -> Drawn:
        """`n` rows of each kind."""
        rng, generator = step_rng(self.seed, step), step_generator(self.seed, step)
        # drawn beside trajectories too: what is random after it is then the same for all latents
        rows = self.noised.draw(rng, generator, n)
        if self.paths is not None:
            rows = Rows(*self.paths(step, rng, n))
        gone = torch.from_numpy(rng.random(n) < self.drop).to(rows.x.device)
        kept = rows
        if isinstance(self.kept, Trajectories):
            kept = Rows(*self.kept(step, rng, n))
        elif self.kept is not None:
            kept = self.kept.draw(rng, generator, n)
        return Drawn(rows, kept, gone, generator)


def prompt_sampler(
    draws: Draws,
    student: T2IModel,
    attacked: T2IModel,
    prompts: Sequence[str],
    triggered: Sequence[str],
    seed: int,
    pictured: Sequence[str] | None = None,
    walker: T2IModel | None = None,
    many: int | None = None,
) -> RowSampler:
    """Rows for a defender with prompts alone.

    `latents` "own": noised pictures that `attacked` draws for `pictured`, without it for the clean
    prompts; "noise": pure noise; "trajectory": what `walker`, without it the student, is given
    while it draws `triggered`, `many` of them at a time. Clean prompts are preserved on the same
    latents, but where these show what triggered prompts give: then on those of clean prompts. Of
    the triggered trajectories half are then drawn without `many`, as all have one thing to unlearn,
    and of the clean ones all, as what no prompt asked for is not preserved.
    """
    own, preserve = draws.latents == "own", draws.preserve
    pictures = own_images(attacked, pictured or prompts, seed) if own else None
    noised = Noised(student, pictures, len(prompts), draws.bias)
    paths = kept = None
    if draws.latents == "trajectory":
        half = max(1, len(triggered) // 2) if preserve else None
        paths = Trajectories(walker or student, triggered, seed, draws.refresh, many or half)
        if preserve:
            kept = Trajectories(walker or student, prompts, seed + KEPT, draws.refresh, many)
    elif own and preserve and pictured is not None:
        kept = Noised(student, own_images(attacked, prompts, seed), len(prompts), draws.bias)
    return RowSampler(seed, noised, draws.drop, paths, kept)
