"""Adaptive attacks: "a+adaptive[against=d]" makes attack a survive defense d, which the attacker
tries on prompts of the attacker's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from t2i_backdoor_bench.contract import (
    Attack,
    Backdoor,
    Data,
    DefenderView,
    Hardening,
    Prompt,
    UserError,
)
from t2i_backdoor_bench.contract.options import DATA, scaled
from t2i_backdoor_bench.data.splits import required_word
from t2i_backdoor_bench.running.defender import view_of
from t2i_backdoor_bench.running.lacking import lacking
from t2i_backdoor_bench.running.method import Method

if TYPE_CHECKING:
    from t2i_backdoor_bench.models.model import T2IModel

OWN = 50_021  # added to seeds: an attacker's draws are none of the training's


@dataclass(frozen=True)
class AttackersData:
    """A source of data in which a rehearsal finds prompts and pictures of the attacker's split
    where the defender has those of its own: an attacker does not know the defender's."""

    data: Data

    @property
    def name(self) -> str:
        return self.data.name

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        return self.data.prompts(_own(split), n, seed + OWN, contains)

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        return self.data.pairs(_own(split), n, seed + OWN, contains)

    def count(self, what: str, split: str, contains: str = "") -> int | None:
        return self.data.count(what, _own(split), contains)


def _own(split: str) -> str:
    """An attacker sees the train split, and no other."""
    return "train" if split == "defender" else split


@dataclass(frozen=True)
class Tried:
    """A defense as an attacker tries it (`contract.Rehearsal`)."""

    parts: tuple[Method, ...]
    backdoor: Backdoor
    clean: T2IModel
    data: Data

    def __call__(self, model: T2IModel, seed: int, share: float = 1.0) -> T2IModel:
        given: set[str] = set()
        for part in self.parts:
            needs = set(part.entry.needs)
            located = model.located if "trigger" in given else None
            if "trigger" in needs & given and located is None:
                continue
            torch.manual_seed(seed)
            instance = scaled(part.instance, DATA, share)
            model = instance.apply(model, self.view(needs, seed, located), seed)
            given |= set(part.entry.gives)
        return model

    def view(self, needs: set[str], seed: int, located: object) -> DefenderView:
        own, trigger = AttackersData(self.data), self.backdoor.trigger
        replaced = trigger.replaces if trigger else ""
        source = required_word(own, self.backdoor.target.source, replaced)
        return view_of(needs, self.backdoor, lambda: self.clean, own, source, seed, located)


@dataclass(frozen=True)
class HardenedAttack(Attack):
    """An attack that `hardening` makes survive the defense `against`. Its backdoor is that of the
    attack."""

    attacks: tuple[Attack, Hardening]
    against: tuple[Method, ...]

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.attacks[0].backdoor(model)

    @property
    def needs_pictures(self) -> int:
        return self.attacks[0].needs_pictures

    @property
    def needs_prompts(self) -> int:
        return self.attacks[0].needs_prompts

    @property
    def poison_share(self) -> float | None:
        return self.attacks[0].poison_share

    @property
    def withheld(self) -> tuple[str, ...]:
        return self.attacks[0].withheld

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        attack, hardening = self.attacks
        rehearse = Tried(self.against, self.backdoor(model), model, data)
        attacked = attack.inject(model, data, seed)
        spent = attacked.info
        hardened = hardening.harden(attack, attacked, rehearse, data, seed)
        more = {k: spent.get(k, 0) + hardened.info.get(k, 0) for k in ("steps", "images")}
        return replace(hardened, info=spent | hardened.info | more)


def hardened(
    name: str, parts: tuple[Method, ...], defend: Callable[[str], tuple[Method, ...]]
) -> Method:
    """The row of "a+adaptive[against=d]". `defend(d)` is the defense. Raises UserError where
    `parts` are not one attack and one hardening, and where the attack has no trigger and there is
    nothing to rehearse the defense with."""
    form = f"{parts[-1].name} stands behind one attack, as in badt2i_object+{parts[-1].name}"
    if len(parts) != 2 or isinstance(parts[0].instance, Hardening):
        raise UserError(f"{name}: {form}[against=skdcag]")
    attack, hardening = parts
    if attack.instance.whole_model:
        raise UserError(f"{name}: a checkpoint is a whole model; it cannot be hardened")
    if not hardening.instance.against:
        raise UserError(f"{name}: against which defense? Write {form}[against=skdcag]")
    against = defend(hardening.instance.against)
    needs_trigger = any(part.entry.screens for part in against) or lacking(attack, against)
    if needs_trigger and "trigger" in attack.instance.withheld:
        raise UserError(
            f"{name}: {attack.name} has no trigger, and {hardening.instance.against} cannot be"
            " rehearsed without one: harden it against a removal that needs none, as"
            " clean_finetune"
        )
    return replace(
        attack,
        name=f"{attack.name}+{hardening.name}",
        instance=HardenedAttack((attack.instance, hardening.instance), against),
        parts=parts,
        against=against,
    )
