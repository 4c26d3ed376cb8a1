from dataclasses import dataclass

from t2i_backdoor_bench.contract import DefenderView, Defense, register_defense
from t2i_backdoor_bench.models.model import T2IModel


@register_defense("none", groups=("baseline",), undefended=True)
@dataclass
class NoDefense(Defense):
    """The backdoored model, untouched: the row that every defense is compared with."""

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return model
