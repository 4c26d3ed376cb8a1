from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.detecting.attention_over_time import batches
from t2i_backdoor_bench.detecting.curvature import curvature
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng
from t2i_backdoor_bench.training.parameters import Trainable, of_model
from t2i_backdoor_bench.training.soft_words import SoftWord, embedding_size, soft_word

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
        what="end of the search",
        released="where the mean loss is below -0.76 and tests are passed, or below -0.85",
        here="behind all steps",
        why="these losses are those of one CLIP",
    ),
    Difference(
        what="where the vector is put in",
        released="behind the embedding layer: it has no position, the tokens behind it keep theirs,"
        " and the trusted encoder is given the suspect's embeddings",
        here="as a token's embedding: it and the tokens behind it have the positions where they"
        " stand, and the trusted encoder has its own embeddings",
        why="the text encoders of all families are read from token ids",
    ),
    Difference(
        what="several text encoders",
        released="one CLIP",
        here="where their states follow one another (CLIP and T5 of SD3), each run of states is"
        " judged by itself and the most suspicious one counts; on FLUX it is T5 alone, as its CLIP"
        " gives no token states",
        why="the states of two encoders are not alike, with or without a backdoor",
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
    version=1,
    paper="wang2025assimilation",
    ours="the score of a single prompt",
    differs=DIFFERS,
)
@dataclass
class AMDET(Detector):
    """AMDET: is there a backdoor in this text encoder? (Wang et al. 2025, arXiv 2512.00343).

    With a backdoor, some vector in a token's place makes the states of all tokens alike
    (assimilation). It is searched by gradient: loss -A(E(v, c)) + b cos(E(c), E(v, c)) + g
    cos(E_0(v, c), E(v, c)). A is the mean cosine of all pairs of token states, E the suspect's text
    encoder, E_0 a trusted one, and v stands behind the start token of clean prompts c.

    A clean CLIP has such vectors, too, but on a loss surface of another shape: `curvature` is the
    share of positive eigenvalues of the Hessian on a plane through v, for one clean prompt. The
    verdict on the *model* (`Screen.suspicion`) is minus the loss on other clean prompts times that
    share. A prompt's score is the cosine of its states to the mean states with v. A backdoor
    outside of the text encoder is not seen.
    """

    steps: int = option(100, sd=640, low=1, scales=True, source="released", help="training steps")
    lr: float = option(8e-2, above=0, source="released", help="learning rate, with 1 the size of v")
    batch: int = option(10, low=1, source="released", help="prompts a step")
    size: float = option(
        0.0,
        sd=1.0,
        low=0,
        source="released",
        help="size of the numbers of the first v; 0: that of the token embeddings",
    )
    beta: float = option(0.1, low=0, source="released", help="b, weight of the distance from c")
    gamma: float = option(0.1, low=0, source="released", help="g, weight of the distance from E_0")
    grid: int = option(
        9, sd=50, low=3, source="released", help="side of the plane that is measured"
    )
    reach: float = option(
        0.36, above=0, source="released", help="half of that side, with 1 the length of v"
    )
    prompts: int = option(
        100, sd=4000, low=1, scales=True, least=16, source="released", help="clean prompts"
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts, anchor = view.first(self.prompts), model.with_encoders(view.clean_text_encoder)
        known = [model.rewrite(p) if model.rewrite else p for p in prompts]
        held = known[::5]  # a fifth, as in the released code
        train = [p for i, p in enumerate(known) if i % 5] or held
        loss = Objective(model, anchor, soft_word(model, known, seed), self)

        def of_step(step: int) -> Tensor:
            rows = step_rng(seed, step).integers(len(train), size=self.batch)
            return loss([train[i] for i in rows]).mean(0).sum()

        optim = Optim(self.steps, self.lr, self.batch, weight_decay=1e-5, clip=0.0)
        fit(of_model(Trainable(loss.rows), model), of_step, optim, "amdet")
        with torch.no_grad():
            parts = list(batches(held, model.batch))
            losses = torch.cat([loss(p) for p in parts]).mean(0).tolist()
            wanted = sum(loss.states(model, p).sum(0) for p in parts) / len(held)
        found = [-x * loss.curved(held[:1], i, seed) for i, x in enumerate(losses)]
        at = slice(*loss.spans[int(np.argmax(found))])
        out = screened(model, lambda asked: nearness(model, asked, wanted, at), prompts, self.rate)
        return replace(out, screen=replace(out.screen, verdict=max(found)))


class Objective:
    """The loss of prompts, as a function of the vectors. These train as standard normal ones, and
    `sizes` makes them what the encoders read.

    spans    the runs [first, end) of text states, one for each encoder or more of them side by side
    """

    def __init__(self, model: T2IModel, anchor: T2IModel, word: SoftWord, method: AMDET) -> None:
        self.model, self.anchor, self.word, self.method = model, anchor, word, method
        own = [embedding_size(e) for e in model.encoders]
        self.sizes = [method.size or s for s in own]
        self.rows = [nn.Parameter(r.detach() / s) for r, s in zip(word.rows, own, strict=True)]
        self.ends = [(p.first, p.first + p.length) for p in model.text_parts]
        self.spans = sorted({(a, b) for a, b in self.ends if a < b})

    def states(
        self, model: T2IModel, prompts: Sequence[str], rows: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Text states (n, tokens, d) of prompts with the vectors, by the encoders of `model`."""
        ids = self.word.insert(self.model.tokenize(prompts))
        vectors = [r * s for r, s in zip(rows or self.rows, self.sizes, strict=True)]
        return self.word.read(model, ids, vectors).states.float()

    def __call__(self, prompts: Sequence[str], rows: Sequence[Tensor] | None = None) -> Tensor:
        """The loss of each prompt in each run of states: (n, spans)."""
        own, trusted = (self.states(m, prompts, rows) for m in (self.model, self.anchor))
        clean, method = self.model.condition(prompts).states.float(), self.method
        apart = method.beta * F.cosine_similarity(clean, own, dim=-1)
        apart = apart + method.gamma * F.cosine_similarity(trusted, own, dim=-1)
        found = [apart[:, a:b].mean(1) - assimilation(own[:, a:b]) for a, b in self.spans]
        return torch.stack(found, 1)

    def curved(self, prompts: Sequence[str], span: int, seed: int) -> float:
        """The share of curvature of the loss in one run of states, over the vectors of its encoders
        alone."""
        here = [i for i, ends in enumerate(self.ends) if ends == self.spans[span]]

        def loss(some: Sequence[Tensor]) -> Tensor:
            rows = list(self.rows)
            for i, row in zip(here, some, strict=True):
                rows[i] = row
            return self(prompts, rows)[:, span].mean()

        rows = [self.rows[i] for i in here]
        return curvature(loss, rows, self.method.grid, self.method.reach, seed)


def assimilation(states: Tensor) -> Tensor:
    """The mean cosine of all pairs of token states (n, tokens, d), each with itself too: (n,)."""
    return F.normalize(states, dim=-1).mean(1).square().sum(-1)


@torch.no_grad()
def nearness(model: T2IModel, prompts: Sequence[str], wanted: Tensor, at: slice) -> np.ndarray:
    """The mean cosine of each prompt's token states at `at` to `wanted` (tokens, d): float (n,)."""
    states = model.condition(prompts).states.float()
    found = F.cosine_similarity(states, wanted[None], dim=-1)[:, at].mean(1)
    return found.double().cpu().numpy()
