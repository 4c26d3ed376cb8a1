"""Training of a denoiser on a sum of denoising and distillation terms: what most attacks and
several defenses consist of.

A term is  weight * || student(x_t, prompt) - target ||^2.  Its target is the noise that was added
(denoising) or a frozen teacher's prediction for its own prompt (distillation), and x_t is a noised
latent or pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.families.noising import Noising
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Fitted, Optim, fit, step_generator, step_rng
from t2i_backdoor_bench.training.lora import RANK
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training

Embed = Callable[[Sequence[str]], Conditioning]


@dataclass(frozen=True)
class Term:
    """One term. `prompts[i]` goes with `latents[i]` (n, C, h, w); `latents=None` draws pure noise
    at every t (as SKD-CAG publishes). With `teacher_prompts` the target is the teacher's prediction
    for them, without it is the noise. In a share `drop` of the rows both prompts are empty:
    guidance subtracts the prediction for the empty prompt, which has to stay what it was (Ho &
    Salimans 2022). A row counts 1 + `ramp` * t/T times."""

    prompts: Sequence[str]
    latents: Tensor | None
    teacher_prompts: Sequence[str] | None = None
    weight: float = 1.0
    drop: float = 0.0
    ramp: float = 0.0


@dataclass(frozen=True)
class Draws:
    """How rows are drawn. `bias`: of the timesteps (`Noising.timesteps`). `shared`: all terms take
    the same pictures, row by row, each with noise and a timestep of its own. `offset`: this much of
    one more number a channel is added to the noise, so that a picture's brightness is noised,
    too."""

    bias: float = 1.0
    shared: bool = False
    offset: float = 0.0


PLAIN = Draws()


@dataclass(frozen=True)
class Batch:
    """What one step draws, a list by term: which prompts, their latents (None: pure noise), noise,
    timesteps, noised latents, and which rows have an empty prompt."""

    picks: list[Tensor]
    latents: list[Tensor | None]
    noise: tuple[Tensor, ...]
    times: tuple[Tensor, ...]
    x: list[Tensor]
    dropped: list[Tensor]


def draw_batch(
    model: T2IModel,
    noising: Noising,
    terms: Sequence[Term],
    rows: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    draws: Draws = PLAIN,
) -> Batch:
    """`rows` rows of each term. Latents may wait on the CPU."""
    device = model.device
    if draws.shared:
        drawn = [rng.integers(len(terms[0].prompts), size=rows)] * len(terms)
    else:
        drawn = [rng.integers(len(term.prompts), size=rows) for term in terms]
    picks = [torch.from_numpy(pick).to(device) for pick in drawn]
    many = rows * len(terms)
    t = noising.timesteps(many, generator, draws.bias).to(device)
    noise = torch.randn((many, *model.latent_shape), generator=generator)
    if draws.offset:
        channels = (many, model.latent_shape[0], 1, 1)
        noise = noise + draws.offset * torch.randn(channels, generator=generator)
    noises, times = noise.to(device).split(rows), t.split(rows)
    latents = [
        None if z is None else z[pick.to(z.device)].to(device)
        for z, pick in zip((term.latents for term in terms), picks, strict=True)
    ]
    x = [noising.add(z, e, s) for z, e, s in zip(latents, noises, times, strict=True)]
    dropped = [torch.from_numpy(rng.random(rows) < term.drop).to(device) for term in terms]
    return Batch(picks, latents, noises, times, x, dropped)


class Students:
    """What the student is told of the drawn prompts: read once, or with `embed(texts)` anew at each
    step, with gradients, for a text encoder that trains."""

    def __init__(self, model: T2IModel, terms: Sequence[Term], embed: Embed | None) -> None:
        self.terms, self.embed = terms, embed
        self.known = [model.condition(term.prompts) for term in terms] if embed is None else []
        self.empty = model.condition([""])

    def __call__(self, batch: Batch) -> list[Conditioning]:
        if self.embed is None:
            return [
                known[p].where(~gone, self.empty)
                for known, p, gone in zip(self.known, batch.picks, batch.dropped, strict=True)
            ]
        drawn = zip(self.terms, batch.picks, batch.dropped, strict=True)
        texts = [
            "" if no else term.prompts[i]
            for term, p, gone in drawn
            for i, no in zip(p.tolist(), gone.tolist(), strict=True)
        ]
        return self.embed(texts).split(len(batch.picks[0]))


def rows_of_each(terms: Sequence[Term], batch: int, shared: bool, label: str) -> int:
    """How many rows of a batch each term has. Raises ValueError for a batch that cannot hold them,
    and for terms that are to share pictures and have others."""
    if batch < len(terms):
        raise ValueError(f"{label}: a batch of {batch} cannot hold {len(terms)} terms")
    if shared and len({len(term.prompts) for term in terms}) > 1:
        raise ValueError(f"{label}: terms of different pictures cannot share them")
    return batch // len(terms)


def denoising_loss(
    model: T2IModel,
    teacher: T2IModel | None,
    terms: Sequence[Term],
    batch: int,
    seed: int,
    label: str,
    draws: Draws = PLAIN,
    embed: Embed | None = None,
    also: Callable[[list[Tensor], list[Tensor]], Tensor] | None = None,
) -> Callable[[int], Tensor]:
    """The sum of `terms` as a function of the step, which takes `batch` rows, divided equally among
    the terms.

    With `embed(texts)` what the student is told is computed anew at every step, with gradients, for
    a text encoder that trains; without it, it is that of `model.condition`. `also(states, picks)`
    is added to the loss: by term, the text states (rows, tokens, dim) and which prompts they are
    of, int64 (rows,).
    """
    rows = rows_of_each(terms, batch, draws.shared, label)
    noising, students = model.noising, Students(model, terms, embed)
    teachers = {
        i: teacher.condition(term.teacher_prompts)
        for i, term in enumerate(terms)
        if term.teacher_prompts is not None
    }

    def taught(drawn: Batch) -> dict[int, Tensor]:
        """The teacher's predictions, by term."""
        if not teachers:
            return {}
        with torch.no_grad():
            asked = [
                known[drawn.picks[i]].where(~drawn.dropped[i], students.empty)
                for i, known in teachers.items()
            ]
            x, t = (torch.cat([values[i] for i in teachers]) for values in (drawn.x, drawn.times))
            y = teacher.denoise(x, t, cat(asked))
        return dict(zip(teachers, y.split(rows), strict=True))

    def loss_fn(step: int) -> Tensor:
        rng, generator = step_rng(seed, step), step_generator(seed, step)
        drawn = draw_batch(model, noising, terms, rows, rng, generator, draws)
        told = students(drawn)
        x, t = torch.cat(drawn.x), torch.cat(drawn.times)
        out = model.denoise(x, t, cat(told)).split(rows)
        goals = taught(drawn)
        loss = torch.zeros((), device=model.device)
        for i, term in enumerate(terms):
            goal = goals.get(i)
            if goal is None:
                goal = noising.target(drawn.latents[i], drawn.noise[i], drawn.times[i])
            error = term_error(term, out[i], goal, drawn.times[i], noising.total)
            loss = loss + term.weight * error
        return loss if also is None else loss + also([c.states for c in told], drawn.picks)

    return loss_fn


def term_error(term: Term, out: Tensor, goal: Tensor, t: Tensor, total: int) -> Tensor:
    """The mean squared error of a term's rows, weighted by their time t/T where it has a ramp."""
    if not term.ramp:
        return F.mse_loss(out.float(), goal.float())
    error = (out.float() - goal.float()).square().flatten(1).mean(1)
    return ((1 + term.ramp * t / total) * error).mean()


def train_terms(
    model: T2IModel,
    teacher: T2IModel | None,
    terms: Sequence[Term],
    optim: Optim,
    seed: int,
    label: str,
    train: str = "full",
    draws: Draws = PLAIN,
    rank: int = RANK,
) -> Fitted:
    """Train the denoiser of `model` in place on the sum of `terms`: the part `train`
    of it, or adapters of a `rank` ("lora")."""
    loss_fn = denoising_loss(model, teacher, terms, optim.batch, seed, label, draws)
    fitted = fit(choose_parameters(model, train, rank), loss_fn, optim, label)
    (factors,) = finish_training(model.denoiser)
    return replace(fitted, factors=factors)


def own_images(model: T2IModel, prompts: Sequence[str], seed: int) -> Tensor:
    """Latents of pictures that the model itself draws for clean prompts: real noised latents for a
    defender who has no images."""
    rng = np.random.default_rng([seed, 77])
    images = replace(model, screen=None, rewrite=None, repair=None).generate(
        prompts, rng.integers(2**31, size=len(prompts)), "draw"
    )
    return model.latents(images, seed)


class Trajectories:
    """What `model` is given while it draws `prompts`: drawn for at most `many` of them, anew every
    `refresh` steps, by its weights then."""

    def __init__(
        self,
        model: T2IModel,
        prompts: Sequence[str],
        seed: int,
        refresh: int,
        many: int | None = None,
    ) -> None:
        self.model, self.prompts, self.seed, self.refresh = model, prompts, seed, refresh
        self.many = min(many or len(prompts), len(prompts))
        self.epoch = -1
        model.checkpoints.carry(self)

    def state(self) -> dict[str, Tensor]:
        """What was drawn by earlier weights, and cannot be drawn again."""
        if self.epoch < 0:
            return {}
        found = {"epoch": torch.tensor(self.epoch), "which": torch.from_numpy(self.which)}
        return found | {"times": self.times, "latents": self.latents}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if state:
            self.epoch, self.which = int(state["epoch"]), state["which"].numpy()
            self.times, self.latents = (
                state[name].to(self.model.device) for name in ("times", "latents")
            )

    def __call__(
        self, step: int, rng: np.random.Generator, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`rows` draws at `step`: which prompts (rows,), timesteps (rows,), noised latents (rows,
        C, h, w)."""
        if step // self.refresh != self.epoch:
            self.epoch = step // self.refresh
            draw = np.random.default_rng([self.seed, 78, self.epoch])
            self.which = draw.permutation(len(self.prompts))[: self.many]
            self.times, self.latents = self.model.trajectory(
                [self.prompts[i] for i in self.which], draw.integers(2**31, size=self.many)
            )
        row, place = rng.integers(self.many, size=rows), rng.integers(len(self.times), size=rows)
        device = self.latents.device
        return (
            torch.from_numpy(self.which[row]).to(device),
            self.times[place],
            self.latents[place, row],
        )
