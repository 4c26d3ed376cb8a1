from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, option, register_defense
from t2i_backdoor_bench.detecting.curvature import curvature
from t2i_backdoor_bench.detecting.screening import calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng
from t2i_backdoor_bench.training.parameters import Trainable, of_model
from t2i_backdoor_bench.training.soft_words import SoftWord, soft_word

DIFFERS = (
    Difference(
        what="verdict",
        released="yes if four numbers are each above a threshold of its own",
        here="one number: minus the loss of the vector found, times the share of curvature",
        why="models are compared by one score; the four thresholds are of CLIP",
    ),
    Difference(
        what="verdict on a prompt",
        released="none: it judges a model",
        here="how near a prompt's states are to those that the vector gives",
        why="detectors here screen prompts, too",
    ),
    Difference(
        what="first vector",
        released="standard normal",
        here="normal, of the mean size of the token embeddings",
        why="embeddings of other bases have other sizes",
    ),
    Difference(
        what="weight decay",
        released="Adam's, 1e-5",
        here="AdamW's, 1e-5",
        why="one training loop serves all methods",
    ),
    calibrated(released="of models, not of prompts"),
)


@register_defense(
    "amdet",
    needs=("clean_prompts", "clean_text_encoder"),
    groups=("detection",),
    screens=True,
    paper="wang2025assimilation",
    ours="the score of a single prompt",
    differs=DIFFERS,
)
@dataclass
class AMDET(Defense):
    """AMDET: is there a backdoor in this text encoder? (Wang et al. 2025, arXiv 2512.00343).

    With a backdoor, some vector in a token's place makes the states of all tokens alike
    (assimilation). It is searched by gradient: loss -A(E(v, c)) + b cos(E(c), E(v, c)) + g
    cos(E_0(v, c), E(v, c)). A is the mean cosine of all pairs of token states, E the suspect's text
    encoder, E_0 a trusted one, and v stands behind the start token of clean prompts c.

    A clean CLIP has such vectors, too, but on a loss surface of another shape: `curvature` is the
    share of positive eigenvalues of the Hessian on a plane through v. The verdict on the *model*
    (`Screen.suspicion`) is minus the loss on other clean prompts times that share. A prompt's score
    is the cosine of its states to the mean states with v. A backdoor outside of the text encoder is
    not seen.
    """

    steps: int = option(100, sd=320, low=1, scales=True, source="released", help="training steps")
    lr: float = option(8e-2, above=0, source="released", help="learning rate")
    batch: int = option(10, low=1, source="released", help="prompts a step")
    beta: float = option(0.1, low=0, source="released", help="b, weight of the distance from c")
    gamma: float = option(0.1, low=0, source="released", help="g, weight of the distance from E_0")
    grid: int = option(
        9, sd=50, low=3, source="released", help="side of the plane that is measured"
    )
    reach: float = option(
        0.36, above=0, source="released", help="half of that side, times the root of the dimension"
    )
    prompts: int = option(
        100, sd=2000, low=1, scales=True, least=16, source="released", help="clean prompts"
    )
    rate: float = option(0.05, low=0, high=1, help="share of clean prompts that may be refused")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts, anchor = view.first(self.prompts), model.with_encoders(view.clean_text_encoder)
        known = [model.rewrite(p) if model.rewrite else p for p in prompts]
        held = known[::5]  # a fifth, as in the released code
        train = [p for i, p in enumerate(known) if i % 5] or held
        word = soft_word(model, known, seed)

        def objective(texts: Sequence[str]) -> Callable[..., Tensor]:
            return Objective(model, anchor, word, texts, self.beta, self.gamma)

        on_train, on_held = objective(train), objective(held)

        def loss(step: int) -> Tensor:
            return on_train(step_rng(seed, step).integers(len(train), size=self.batch))

        optim = Optim(self.steps, self.lr, self.batch, weight_decay=1e-5, clip=0.0)
        fit(of_model(Trainable(list(word.rows)), model), loss, optim, "amdet")
        share = curvature(lambda rows: on_held(rows=rows), word.rows, self.grid, self.reach, seed)
        with torch.no_grad():
            found = -float(on_held()) * share
            wanted = on_held.states().mean(0)
        out = screened(model, lambda asked: nearness(model, asked, wanted), prompts, self.rate)
        return replace(out, screen=replace(out.screen, verdict=found))


class Objective:
    """The loss on some prompts, as a function of which of them and of the vectors."""

    def __init__(
        self,
        model: T2IModel,
        anchor: T2IModel,
        word: SoftWord,
        prompts: Sequence[str],
        beta: float,
        gamma: float,
    ) -> None:
        self.model, self.anchor, self.word = model, anchor, word
        self.beta, self.gamma = beta, gamma
        self.ids = word.insert(model.tokenize(prompts))
        self.clean = model.condition(prompts).states.float()

    def states(
        self, which: np.ndarray | slice = slice(None), rows: Sequence[Tensor] | None = None
    ) -> Tensor:
        return self.word.read(self.model, self.ids[which], rows).states.float()

    def __call__(
        self, which: np.ndarray | slice = slice(None), rows: Sequence[Tensor] | None = None
    ) -> Tensor:
        own = self.states(which, rows)
        trusted = self.word.read(self.anchor, self.ids[which], rows).states.float()
        near = F.cosine_similarity(self.clean[which], own, dim=-1).mean()
        same = F.cosine_similarity(trusted, own, dim=-1).mean()
        return -assimilation(own).mean() + self.beta * near + self.gamma * same


def assimilation(states: Tensor) -> Tensor:
    """The mean cosine of all pairs of token states (n, tokens, d), each with itself too: (n,)."""
    return F.normalize(states, dim=-1).mean(1).square().sum(-1)


@torch.no_grad()
def nearness(model: T2IModel, prompts: Sequence[str], wanted: Tensor) -> np.ndarray:
    """The mean cosine of each prompt's token states to `wanted` (tokens, d): float (n,)."""
    states = model.condition(prompts).states.float()
    return F.cosine_similarity(states, wanted[None], dim=-1).mean(1).double().cpu().numpy()
