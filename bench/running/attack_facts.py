"""Under which conditions an attack was made: the part of the protocol that the attack brings."""

from __future__ import annotations

import re
from typing import Any

from t2i_backdoor_bench.contract import Backdoor, registry
from t2i_backdoor_bench.contract.listing import SOURCES
from t2i_backdoor_bench.contract.options import options_of, scaled, settings_from
from t2i_backdoor_bench.contract.registry import EMBEDDED
from t2i_backdoor_bench.contract.trigger_kinds import trigger_kind
from t2i_backdoor_bench.data.purification import SYNONYMS
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.plan import Plan

NOT_STATED = "not stated"
WHO = {name: words if name == "ours" else f"the {words}" for name, words in SOURCES.items()}


def attack_facts(plan_: Plan, attack: str, backdoor: Backdoor, texts: list[str]) -> dict[str, Any]:
    """What `Record.attack` holds, of a combined attack for the backdoor that is judged. `texts` are
    clean prompts: their words are ordinary ones."""
    method = plan_.attacks[attack]
    part = method.parts[method.which] if method.parts else method
    ordinary = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    ordinary |= {word for group in SYNONYMS for word in group}
    return {
        "trigger_kind": "no trigger"
        if backdoor.always
        else trigger_kind(backdoor.trigger, ordinary),
        "trigger": backdoor.trigger.text if backdoor.trigger else "",
        "poison_share": part.instance.poison_share,
        "evaluates_with": part.entry.evaluates or NOT_STATED,
        "settings_by": settings_by(plan_, part),
    }


def chosen_by(cls: type) -> str:
    """Whose the main settings for Stable Diffusion are, by what the options say. Where none says
    that it is from a paper or its code, whose they are is not stated."""
    found = settings_from(cls)
    if not found.keys() - {"ours"}:
        return NOT_STATED
    if len(found) == 1:
        return WHO[next(iter(found))]
    return "; ".join(f"{', '.join(names)}: {WHO[source]}" for source, names in found.items())


def settings_by(plan_: Plan, part: Method) -> str:
    """Who chose the options of an attack. Those of the embedded base are ours; the options, or a
    decorator, say whose those for Stable Diffusion are. Options that the user set are named."""
    family, who = plan_.base.settings, part.entry.settings or chosen_by(type(part.instance))
    if part.instance.whole_model:
        return who
    if family == EMBEDDED and who != NOT_STATED:
        who = "ours, chosen on the development split"
    usual = vars(scaled(registry.attacks.build(part.name, family), (), plan_.config.size.training))
    own = [n for n in options_of(type(part.instance)) if vars(part.instance)[n] != usual[n]]
    return f"{who}; by the user: {', '.join(own)}" if own else who
