from dataclasses import dataclass

from bench.model import T2IModel
from bench.registry import register_defense
from bench.types import DefenderView


@register_defense("none", groups=("baseline",), undefended=True)
@dataclass
class NoDefense:
    """The backdoored model, untouched: the row that every defense is compared with."""

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return model
