"""Combined attacks: "a+b" puts one backdoor after the other into one model. Each backdoor is a
row of its own, judged by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from t2i_backdoor_bench.contract import Attack, Backdoor, Exposure, Hardening, UserError
from t2i_backdoor_bench.running.exposed import exposed
from t2i_backdoor_bench.running.hardened import hardened
from t2i_backdoor_bench.running.method import Method

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Data
    from t2i_backdoor_bench.models.model import T2IModel


@dataclass(frozen=True)
class CombinedAttack(Attack):
    """The attack "a+b", of which the backdoor number `which` is judged and told to defenses that
    are given a trigger.

    Every attack takes the model as the one before it left it: what it preserves is that model on
    clean prompts. Nothing else preserves the earlier backdoor, and its row shows what is left of
    it.
    """

    names: tuple[str, ...]
    attacks: tuple[Attack, ...]
    which: int

    def backdoor(self, model: T2IModel) -> Backdoor:
        """The backdoor that is judged. Raises UserError where two attacks share a trigger: one
        prompt cannot bring two targets."""
        found = [attack.backdoor(model) for attack in self.attacks]
        texts = [b.trigger.text for b in found if b.trigger is not None]
        if twice := next((t for i, t in enumerate(texts) if t in texts[:i]), None):
            raise UserError(
                f"two attacks of {'+'.join(self.names)} have the trigger {twice!r}: give one"
                f" another, as in {self.names[-1]}[trigger=WORD]"
            )
        return found[self.which]

    @property
    def poison_share(self) -> float | None:
        return self.attacks[self.which].poison_share

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        total = {"steps": 0, "images": 0, "parameters": 0}
        for attack in self.attacks:
            model = attack.inject(model, data, seed)
            total |= {k: total[k] + model.info.get(k, 0) for k in ("steps", "images")}
            total["parameters"] = max(total["parameters"], model.info.get("parameters", 0))
        return replace(model, info=total)


def attack_rows(
    name: str, parts: tuple[Method, ...], defend: Callable[[str], tuple[Method, ...]]
) -> dict[str, Method]:
    """The rows of an attack by name: itself, or "a+b#1" and "a+b#2" with the backdoor that each is
    judged by, or "a+exposed[...]" (`exposed`), or "a+adaptive[against=d]" (`hardened`), with
    `defend(d)` the defense. Raises UserError for a checkpoint in a combination: it is a model of
    its own."""
    if any(isinstance(part.instance, Exposure) for part in parts):
        return {name: exposed(name, parts)}
    if any(isinstance(part.instance, Hardening) for part in parts):
        return {name: hardened(name, parts, defend)}
    if len(parts) == 1:
        return {name: parts[0]}
    if any(part.instance.whole_model for part in parts):
        raise UserError(
            f"{name}: a checkpoint is a whole model; it cannot be one of several attacks"
        )
    edits = ", ".join(dict.fromkeys(part.entry.edits for part in parts))
    names, attacks = tuple(p.name for p in parts), tuple(p.instance for p in parts)
    return {
        f"{name}#{i + 1}": replace(
            parts[0],
            name="+".join(names),
            instance=CombinedAttack(names, attacks, i),
            entry=replace(part.entry, version=0, edits=edits),
            parts=parts,
            which=i,
        )
        for i, part in enumerate(parts)
    }
