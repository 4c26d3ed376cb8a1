"""Edits of the keys and values of text in closed form, on any family that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.closed_form import edit, solve
from t2i_backdoor_bench.training.text_inputs import Moments, inputs_at, moments


@dataclass(frozen=True)
class TextEdit:
    """Which text states should give other keys and values.

    The state at place (i, j) of the prompts `given` is to give what the state at place (i,
    `places[i, j]`) of the prompts `wanted` gives, where `used[i, j]`: int64 and bool (n, tokens).
    All states of the prompts `kept` are to give what they do. `erase`, `preserve` and `ridge`
    weight the first, the second, and the distance from the old weights (`closed_form.edit`).
    """

    given: Sequence[str]
    wanted: Sequence[str]
    places: Tensor
    used: Tensor
    kept: Sequence[str]
    erase: float
    preserve: float
    ridge: float

    @torch.no_grad()
    def apply(self, model: T2IModel, student: T2IModel, seed: int) -> int:
        """Edit the weights of `student`, which are still those of `model`. Gives how many numbers
        were set."""
        layers = student.family.keys_and_values(student.denoiser)
        if student.family.text_changes:
            by_block(self, model, student, seed)
        else:
            old, new, kept = self.states(model)
            how = (self.erase, self.preserve, self.ridge)
            for layer in layers:
                layer.weight.copy_(edit(layer.weight.double(), old, new, kept, *how))
        return sum(layer.weight.numel() for layer in layers)

    def states(self, model: T2IModel) -> tuple[Tensor, Tensor, Tensor]:
        """Where every layer is given the same states, those of the text encoders: float64 (n, d) of
        what is edited and of what it is to become, and (m, d) of what is kept."""
        (old, read), (new, _) = map(model.key_value_inputs, (self.given, self.wanted))
        kept, mask = model.key_value_inputs(self.kept)
        places, used = self.places.to(new.device), self.used.to(new.device) & read
        new = new.gather(1, places[..., None].expand_as(new))
        return old[used].double(), new[used].double(), kept[mask].double()


@torch.no_grad()
def by_block(task: TextEdit, model: T2IModel, student: T2IModel, seed: int) -> None:
    """Block after block, where text states change from block to block.

    With e the states that `student`, edited in the blocks before, has at a block, e* those of
    `model` for what is wanted, and k, k* those of both for the kept prompts, the new weight W'
    minimizes erase * sum ||W' e - W e*||^2 + preserve * sum ||W' k - W k*||^2 + ridge ||W' - W||^2.
    The sums are over prompts, places and `MOMENTS` moments of drawings of `model`: of the wanted
    prompts for the first, of the kept ones for the second. Biases stay.
    """
    wanted, kept = moments(model, task.wanted, seed), moments(model, task.kept, seed + 1)
    family = student.family
    pairs = zip(
        _blocks(family.keys_and_values(model.denoiser)),
        _blocks(family.keys_and_values(student.denoiser)),
        strict=True,
    )
    for own, layers in pairs:
        sums = _Sums(layers[0].weight)
        _add_edited(sums, task, (model, own[0]), (student, layers[0]), wanted)
        _add_kept(sums, task, (model, own[0]), (student, layers[0]), kept)
        for layer in layers:
            weight = layer.weight.double()
            layer.weight.copy_(solve(weight, sums.left, sums.right, task.ridge))


class _Sums:
    """Sums over states: of new old^T (`left`) and of old old^T (`right`), float64 (d, d)."""

    def __init__(self, weight: Tensor) -> None:
        d = weight.shape[1]
        self.left, self.right = (
            torch.zeros(d, d, dtype=torch.float64, device=weight.device) for _ in range(2)
        )

    def add(self, old: Tensor, new: Tensor, weight: float) -> None:
        """`old` and `new`: (m, d)."""
        old, new = old.double(), new.double()
        self.left += weight * new.T @ old
        self.right += weight * old.T @ old


Place = tuple[T2IModel, nn.Linear]  # a model, and the projection whose inputs are read


def _add_edited(
    sums: _Sums, task: TextEdit, teacher: Place, student: Place, drawn: Moments
) -> None:
    (model, _), device = teacher, sums.left.device
    told, goals = (model.condition(texts) for texts in (task.given, task.wanted))
    places, used = task.places.to(device), task.used.to(device)
    tokens = used.shape[1]
    for at, x, t in drawn.batches(model.batch):
        old = inputs_at(*student, x, t, told[at])[:, :tokens]
        new = inputs_at(*teacher, x, t, goals[at])[:, :tokens]
        new = new.gather(1, places[at][..., None].expand_as(new))
        sums.add(old[used[at]], new[used[at]], task.erase)


def _add_kept(sums: _Sums, task: TextEdit, teacher: Place, student: Place, drawn: Moments) -> None:
    model, _ = teacher
    told = model.condition(task.kept)
    for at, x, t in drawn.batches(model.batch):
        old, new = (inputs_at(*place, x, t, told[at]) for place in (student, teacher))
        sums.add(old.flatten(0, 1), new.flatten(0, 1), task.preserve)


def _blocks(layers: Sequence[nn.Linear]) -> list[tuple[nn.Linear, nn.Linear]]:
    """Keys and values of each block."""
    return list(zip(layers[::2], layers[1::2], strict=True))
