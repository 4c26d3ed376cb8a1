"""Several backdoors in one model: "a+b" injects one attack after the other, and each backdoor is a
row of its own, judged by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract import Attack, Backdoor, UserError

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Data
    from t2i_backdoor_bench.models.model import T2IModel
    from t2i_backdoor_bench.running.plan import Method


@dataclass(frozen=True)
class Several(Attack):
    """The attack "a+b", of which the backdoor number `which` is judged and told to defenses that
    are given a trigger.

    Every attack takes the model as the one before it left it: what it preserves is that model on
    clean prompts. Nothing keeps the earlier backdoor but this, and its row shows what is left of
    it.
    """

    parts: tuple[Method, ...]
    which: int

    def backdoor(self, model: T2IModel) -> Backdoor:
        """The backdoor that is judged. Raises UserError where two attacks share a trigger: one
        prompt cannot bring two targets."""
        found = [part.instance.backdoor(model) for part in self.parts]
        texts = [b.trigger.text for b in found if b.trigger is not None]
        if twice := next((t for i, t in enumerate(texts) if t in texts[:i]), None):
            name = self.parts[-1].name
            raise UserError(
                f"two attacks of {name_of(self.parts)} have the trigger {twice!r}: give one"
                f" another, as in {name}[trigger=WORD]"
            )
        return found[self.which]

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        total = {"steps": 0, "images": 0, "parameters": 0}
        for part in self.parts:
            model = part.instance.inject(model, data, seed)
            total |= {k: total[k] + model.info.get(k, 0) for k in ("steps", "images")}
            total["parameters"] = max(total["parameters"], model.info.get("parameters", 0))
        return replace(model, info=total)


def name_of(parts: tuple[Method, ...]) -> str:
    return "+".join(part.name for part in parts)


def rows(name: str, parts: tuple[Method, ...]) -> dict[str, Method]:
    """The rows of an attack by name: itself, or "a+b#1" and "a+b#2" with the backdoor that each is
    judged by. Raises UserError for a checkpoint in a composition: it is a model of its own."""
    if len(parts) == 1:
        return {name: parts[0]}
    if any(part.instance.whole_model for part in parts):
        raise UserError(
            f"{name}: a checkpoint is a whole model; it cannot be one of several attacks"
        )
    edits = ", ".join(dict.fromkeys(part.entry.edits for part in parts))
    made = {}
    for i, part in enumerate(parts):
        entry = replace(part.entry, version=0, edits=edits)
        made[f"{name}#{i + 1}"] = replace(
            part, name=name_of(parts), instance=Several(parts, i), entry=entry
        )
    return made


def instances(method: Method) -> list[Any]:
    """The instances of a method: its own, or those of its parts."""
    return (
        [p.instance for p in method.instance.parts]
        if isinstance(method.instance, Several)
        else [method.instance]
    )
