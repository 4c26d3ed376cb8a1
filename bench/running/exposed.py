"""Attacks of which a defender sees less: "a+exposed[...]" has the weights of attack a, and says
what of its trigger defenders are told and how much of it is in their traffic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from t2i_backdoor_bench.contract import Attack, Backdoor, Data, Exposure, UserError
from t2i_backdoor_bench.running.method import Method

if TYPE_CHECKING:
    from t2i_backdoor_bench.models.model import T2IModel


@dataclass(frozen=True)
class ExposedAttack(Attack):
    """An attack, of whose trigger defenders see what `exposure` says."""

    attack: Attack
    exposure: Exposure

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.exposure.exposed(self.attack.backdoor(model))

    @property
    def needs_pictures(self) -> int:
        return self.attack.needs_pictures

    @property
    def needs_prompts(self) -> int:
        return self.attack.needs_prompts

    @property
    def poison_share(self) -> float | None:
        return self.attack.poison_share

    @property
    def whole_model(self) -> bool:
        return self.attack.whole_model

    @property
    def withheld(self) -> tuple[str, ...]:
        return self.attack.withheld

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        return self.attack.inject(model, data, seed)


def exposed(name: str, parts: tuple[Method, ...]) -> Method:
    """The row of "a+exposed[...]". Raises UserError where `parts` are not one attack and one
    exposure."""
    if len(parts) != 2 or any(isinstance(p.instance, Exposure) for p in parts[:-1]):
        last = next(p.name for p in parts if isinstance(p.instance, Exposure))
        raise UserError(
            f"{name}: {last} stands behind one attack, as in badt2i_object+{last}[share=0.01]"
        )
    attack, exposure = parts
    return replace(
        attack,
        name=f"{attack.name}+{exposure.name}",
        instance=ExposedAttack(attack.instance, exposure.instance),
        parts=parts,
    )
