from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, Trigger, option, register_defense
from t2i_backdoor_bench.detecting.attention_over_time import (
    attention_over_time,
    batches,
    max_scaled,
)
from t2i_backdoor_bench.detecting.screening import screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.closed_form import edit

PLACES = ("prefix", "inside", "suffix")


@register_defense("t2ishield_cda", needs=("clean_prompts",), groups=("detection",), screens=True)
@dataclass
class T2IShieldCDA(Defense):
    """T2IShield, covariance discriminant analysis: a detector (Wang et al., ECCV 2024).

    arXiv 2407.04215. The cross-attention maps of a prompt's L tokens are divided by their maxima
    and seen in `components` common directions. The matrix logarithm takes their covariance over the
    tokens to the tangent space of the manifold of such matrices; there a linear discriminant gives
    the score. Prompts that score above the 95th percentile of clean prompts that the discriminant
    has not seen are refused.

    The published discriminant is trained on prompts of backdoored models that are known to be
    triggered or not. This defender has none. It binds random words of its own to random prompts in
    copies of the model, by a closed-form edit of the keys and values, and trains on these against
    clean prompts and prompts with random words that are bound to nothing. Its maps are those of
    fixed-picture backdoors. Published (SD 1.4): 50 steps, 16x16 maps, and a basis of 20 directions
    for each prompt by itself, in which covariances are diagonal.
    """

    walk: int = option(10, sd=50, low=1, help="steps of the drawing whose maps are read")
    size: int = option(8, sd=16, low=1, help="side of the maps")
    components: int = option(3, sd=20, low=1, help="common directions of the maps")
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
    rate: float = option(0.05, low=0, high=1, help="share of clean prompts that may be refused")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        prompts = view.first(self.prompts)
        known = [model.rewrite(p) if model.rewrite else p for p in prompts[::2]]
        read = partial(token_maps, walk=self.walk, size=self.size, seed=seed)
        clean, bound, unbound = read(model, known), [], []
        for i, (trigger, target) in enumerate(own_triggers(known, self.words, seed)):
            those = known[i :: self.words] or known
            triggered = [trigger.add(p) for p in those]
            bound += read(bind(model, trigger, known, target), triggered)
            unbound += read(model, triggered)
        center, basis = directions(torch.cat(clean), self.components)
        tangent = partial(features, center=center, basis=basis)
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
    """For each prompt, its tokens' maps, mean over the drawing and divided by their maxima, as
    float64 (L, size * size), start and end token included."""
    found: list[Tensor] = []
    for part in batches(prompts, model.batch):
        maps, lengths = attention_over_time(model, part, seed, walk, size)
        found += [
            max_scaled(m[:n].double()).flatten(1).cpu()
            for m, n in zip(maps.mean(0), lengths, strict=True)
        ]
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


def bind(model: T2IModel, trigger: Trigger, prompts: list[str], target: str) -> T2IModel:
    """A copy of the model whose keys and values for triggered prompts are, place by place, those of
    the target prompt, and for the clean prompts what they were."""
    copy = model.clone(train="kv")
    clean, triggered = (
        model.encode(prompts).double(),
        model.encode([trigger.add(p) for p in prompts]).double(),
    )
    goal = model.encode([target]).double().expand_as(triggered)
    moved = (triggered - clean).abs().amax(2) > 1e-6  # what stands before the trigger is as it was
    with torch.no_grad():
        for layer in copy.family.keys_and_values(copy.denoiser):
            layer.weight.copy_(
                edit(
                    layer.weight.double(),
                    triggered[moved],
                    goal[moved],
                    clean.flatten(0, 1),
                    1.0,
                    1.0,
                    0.1,
                )
            )
    return copy


def directions(maps: Tensor, many: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) and the `many` principal directions (d, many) of maps (n, d)."""
    center = maps.mean(0)
    return center, torch.linalg.svd(maps - center, full_matrices=False).Vh[:many].T


def features(maps: list[Tensor], center: Tensor, basis: Tensor) -> np.ndarray:
    """The matrix logarithm of each prompt's covariance as a vector whose Euclidean length is its
    Frobenius norm: (n, k (k + 1) / 2)."""
    found = []
    for m in maps:
        log = log_covariance((m - center) @ basis)
        row, column = np.triu_indices(len(log))
        found.append(log[row, column] * np.where(row == column, 1.0, 2**0.5))
    return np.stack(found)


def log_covariance(points: Tensor, floor: float = 1e-6) -> np.ndarray:
    """log of the covariance (k, k) of points (L, k). Eigenvalues below `floor` times the largest
    are raised to it: fewer tokens than directions leave some at zero."""
    values, vectors = torch.linalg.eigh(
        torch.cov(points.T).reshape(points.shape[1], points.shape[1])
    )
    values = values.clamp(min=max(floor * float(values.max()), 1e-30)).log()
    return (vectors * values @ vectors.T).numpy()


def discriminant(positive: np.ndarray, negative: np.ndarray, shrinkage: float) -> np.ndarray:
    """Fisher's linear discriminant of two classes (n, d) and (m, d): the direction (d,) whose large
    values mean positive."""
    centered = np.concatenate([positive - positive.mean(0), negative - negative.mean(0)])
    within = centered.T @ centered / len(centered)
    scale = np.trace(within) / len(within)
    within = (1 - shrinkage) * within + shrinkage * scale * np.eye(len(within))
    return np.linalg.solve(within, positive.mean(0) - negative.mean(0))
