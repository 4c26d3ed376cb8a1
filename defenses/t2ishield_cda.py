from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Difference,
    Trigger,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.detecting.attention_over_time import (
    SIDES,
    attention_over_time,
    batches,
    max_scaled,
)
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.text_edits import TextEdit

PLACES = ("prefix", "inside", "suffix")


DIFFERS = (
    Difference(
        what="what the discriminant is trained on",
        released="prompts of eight backdoors (Rickrolling, VillanDiffusion), each known to be"
        " triggered or not",
        here="words that the defender binds itself, in copies of the model",
        why="a defender has no labelled prompts: who has them knows the trigger",
    ),
    Difference(
        what="discriminant",
        released="scikit-learn's, of all 20 x 20 entries, nearly all of which are zero but for"
        " rounding",
        here="Fisher's, of the diagonal, with a shrunk covariance",
        why="in its own principal directions a covariance is diagonal; some hundred prompts do not"
        " carry hundreds of features of rounding noise",
    ),
    Difference(
        what="eigenvalues of nearly zero",
        released="minus infinity; the prompt then counts as triggered",
        here="raised to 1e-6 of the largest",
        why="a score has to be finite",
    ),
    SIDES,
    calibrated(released="what the discriminant decides"),
)


NOT_ON_FLUX = {"flux": "in its single blocks text has no keys and values of its own"}


@register_defense(
    "t2ishield_cda",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    version=1,
    not_on=NOT_ON_FLUX,
    differs=DIFFERS,
)
@dataclass
class T2IShieldCDA(Detector):
    """T2IShield, covariance discriminant analysis: a detector (Wang et al., ECCV 2024).

    arXiv 2407.04215. The cross-attention maps of all tokens behind the begin token, padding
    included (76 at SD 1.4), are mean over a drawing, divided by their maxima and rounded to 8 bits.
    The covariance over the tokens is taken in the `components` principal directions of this
    prompt's own maps, where it is diagonal, and the matrix logarithm takes it to the tangent space
    of the manifold of such matrices: what remains are the logarithms of its largest eigenvalues. A
    linear discriminant of these is the score. Prompts that score above the 95th percentile of clean
    prompts that the discriminant has not seen are refused.

    The discriminant needs examples of triggered prompts. The defender binds random words of its own
    to random prompts in copies of the model, by a closed-form edit of the keys and values, and
    trains on these against clean prompts and prompts with random words that are bound to nothing.
    Its maps are those of fixed-picture backdoors.
    """

    walk: int = option(
        10, sd=50, low=1, source="released", help="steps of the drawing whose maps are read"
    )
    size: int = option(8, sd=16, low=1, source="released", help="side of the maps")
    components: int = option(
        20, low=1, source="released", help="principal directions of a prompt's maps"
    )
    words: int = option(8, low=1, help="random words that the defender binds, each in a copy")
    shrinkage: float = option(
        0.1, low=0, high=1, help="of the covariance towards a multiple of the identity"
    )
    prompts: int = option(
        100,
        low=1,
        scales=True,
        least=16,
        help="clean prompts: half train the discriminant, half set the threshold",
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        room = min(model.text_part.length - 2, self.size**2)
        if self.components > room:
            raise UserError(
                f"components {self.components} is above {room}, all that maps here have"
            )
        prompts = view.first(self.prompts)
        known = [model.rewrite(p) if model.rewrite else p for p in prompts[::2]]
        read = partial(token_maps, walk=self.walk, size=self.size, seed=seed)
        clean, bound, unbound = read(model, known), [], []
        for i, (trigger, target) in enumerate(own_triggers(known, self.words, seed)):
            those = known[i :: self.words] or known
            triggered = [trigger.add(p) for p in those]
            bound += read(bind(model, trigger, known, target, seed), triggered)
            unbound += read(model, triggered)
        tangent = partial(features, many=self.components)
        weights = discriminant(tangent(bound), tangent(clean + unbound), self.shrinkage)
        return screened(
            model,
            lambda asked: tangent(read(model, asked)) @ weights,
            prompts[1::2] or prompts,
            self.rate,
        )


def token_maps(
    model: T2IModel, prompts: list[str], walk: int, size: int, seed: int
) -> list[Tensor]:
    """For each prompt, the maps of all tokens behind the begin token, padding included, mean over
    the drawing, divided by their maxima and in whole steps of 1/255: float64 (L, size * size)."""
    found: list[Tensor] = []
    for part in batches(prompts, model.batch):
        maps, _ = attention_over_time(model, part, seed, walk, size, padding=True)
        scaled = max_scaled(maps.mean(0)[:, 1:].double()).flatten(2).cpu()
        found += list((255 * scaled).floor() / 255)
    return found


def own_triggers(prompts: list[str], many: int, seed: int) -> list[tuple[Trigger, str]]:
    """Random words of 4 to 8 letters, in turn before, in and behind a prompt, each with the prompt
    that it is to be bound to."""
    rng = np.random.default_rng([seed, 84])
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size=rng.integers(4, 9))) for _ in range(many)]
    return [
        (Trigger(w, PLACES[i % 3]), prompts[rng.integers(len(prompts))])
        for i, w in enumerate(words)
    ]


def bind(model: T2IModel, trigger: Trigger, prompts: list[str], target: str, seed: int) -> T2IModel:
    """A copy of the model whose keys and values for triggered prompts are, place by place, those of
    the target prompt, and for the clean prompts what they were."""
    copy = model.clone(train="kv")
    triggered, n = [trigger.add(p) for p in prompts], model.states
    clean, bound = (model.encode(texts)[:, :n].double() for texts in (prompts, triggered))
    # what stands before the trigger is as it was
    moved = (bound - clean).abs().amax(2) > 1e-6
    places = torch.arange(n).expand(len(prompts), -1)
    goals = [target] * len(prompts)
    TextEdit(triggered, goals, places, moved, prompts, 1.0, 1.0, 0.1).apply(model, copy, seed)
    return copy


def features(maps: list[Tensor], many: int, floor: float = 1e-6) -> np.ndarray:
    """For each prompt's maps (L, d), the logarithms of the `many` largest eigenvalues of their
    covariance over the L tokens: (n, many). Eigenvalues below `floor` times the largest are raised
    to it."""
    found = []
    for m in maps:
        spread = torch.linalg.svdvals(m - m.mean(0))[:many].square() / (len(m) - 1)
        found.append(spread.clamp(min=max(floor * float(spread[0]), 1e-30)).log().numpy())
    return np.stack(found)


def discriminant(positive: np.ndarray, negative: np.ndarray, shrinkage: float) -> np.ndarray:
    """Fisher's linear discriminant of two classes (n, d) and (m, d): the direction (d,) whose large
    values mean positive."""
    centered = np.concatenate([positive - positive.mean(0), negative - negative.mean(0)])
    within = centered.T @ centered / len(centered)
    scale = np.trace(within) / len(within)
    within = (1 - shrinkage) * within + shrinkage * scale * np.eye(len(within))
    return np.linalg.solve(within, positive.mean(0) - negative.mean(0))
