"""Which of the methods that were asked for work on the base's family of models."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Registry, UserError, registry
from t2i_backdoor_bench.contract.names import names_of, parts_of, read
from t2i_backdoor_bench.models.catalog import Base
from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.trust import layout_of, locate
from t2i_backdoor_bench.running.controls import chosen_defenses
from t2i_backdoor_bench.running.settings import Config


def fitting(
    config: Config, base: Base, attacks: Sequence[str]
) -> tuple[list[str], list[str], dict[str, str]]:
    """The attacks and the defenses that work on the base, and why others, which a group had
    brought, do not. Raises UserError for one that was asked for by its name, and where none is
    left."""
    kept, unfit = [], {}
    selected = (
        (registry.attacks, config.attacks, attacks),
        (registry.defenses, config.defenses, chosen_defenses(config)),
    )
    for kind, text, names in selected:
        why = {name: reason for name in names if (reason := reason_against(kind, name, base))}
        named = {"+".join(parts) for parts in map(parts_of, names_of(text))}
        rest = [name for name in names if name not in why]
        for name, reason in why.items():
            if name in named or not rest:
                raise UserError(
                    f"{name} does not work on {_layout(base).family}: {reason}; leave it out, or"
                    " take another base"
                )
        kept.append(rest)
        unfit |= why
    return kept[0], kept[1], unfit


def reason_against(kind: Registry, name: str, base: Base) -> str:
    """Why a method, or a part of a composition, does not work on the base; "" where all do."""
    for part in parts_of(name):
        not_on = kind.get(read(part)[0]).not_on
        if not_on and (reason := not_on.get(_layout(base).name)):
            return reason
    return ""


def _layout(base: Base) -> Layout:
    return layout_of(locate(base.source))
