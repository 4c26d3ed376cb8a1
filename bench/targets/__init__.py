"""What a backdoor makes a model draw. Each kind of target has one file, which pastes it into
pictures, judges pictures, and describes it; `kind_of` finds the kind of a target.

Imports: contract, data, models.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract import Backdoor, Seen, Target, UserError, suggest
from t2i_backdoor_bench.contract.plugged import plugged
from t2i_backdoor_bench.targets.image import ImageKind
from t2i_backdoor_bench.targets.kinds import Kind
from t2i_backdoor_bench.targets.object import ObjectKind
from t2i_backdoor_bench.targets.patch import PatchKind
from t2i_backdoor_bench.targets.prompt import PromptKind
from t2i_backdoor_bench.targets.style import StyleKind
from t2i_backdoor_bench.targets.unknown import UnknownKind

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract.protocols import Features
    from t2i_backdoor_bench.targets.judge import Judge

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (PatchKind(), ImageKind(), StyleKind(), ObjectKind(), PromptKind(), UnknownKind())
}


def kind_of(target: Target) -> Kind:
    """The kind of a target: one of this suite, or of an installed package. Raises UserError for a
    kind that does not exist."""
    found = KINDS.get(target.kind) or others().get(target.kind)
    if found is None:
        known = [*KINDS, *others()]
        raise UserError(f"no target kind {target.kind!r}; {suggest(target.kind, known, 'known')}")
    return found


@functools.cache
def others() -> dict[str, Kind]:
    """The kinds of targets of other installed packages. Each names its class as an entry point of
    `t2i_backdoor_bench.targets`, under the kind's own name. Raises UserError for what is none, and
    for a name that is taken."""
    found = {}
    for name, cls in plugged("targets").items():
        if not (isinstance(cls, type) and issubclass(cls, Kind) and cls.name == name):
            raise UserError(
                f"the target {name!r} of an installed package is no class derived from"
                f" t2i_backdoor_bench.targets.Kind with the name {name!r}"
            )
        if name in KINDS:
            raise UserError(f"the target {name!r} of an installed package has a name that is taken")
        found[name] = cls()
    return found


def make_judge(backdoor: Backdoor, scorer: Features) -> Judge:
    """The judge of a backdoor's target. Pass `scoring.features.Features` as the scorer, and the
    judge shares its cached features.

    Raises UserError for a kind that does not exist, and for a target that is incomplete.
    """
    kind = kind_of(backdoor.target)
    judge = kind.judge(backdoor.target, scorer)
    judge.trace = kind.trace(backdoor.target, scorer)
    return judge


# parts of `Seen` that came later: records have them where they are used
LATER = ("flood", "flood_share", "reworded")


def describe(backdoor: Backdoor) -> dict[str, Any]:
    """The trigger and the target as JSON values, as records store them."""
    found: dict[str, Any] = {
        "trigger": dataclasses.asdict(backdoor.trigger) if backdoor.trigger else None,
        "target": kind_of(backdoor.target).describe(backdoor.target),
    }
    if backdoor.own:
        found["own"] = list(backdoor.own)
    if backdoor.sets:
        found["sets"] = {name: [p for _, p in pairs] for name, pairs in backdoor.sets.items()}
    if backdoor.forms:
        forms = backdoor.forms.items()
        found["forms"] = {name: [dataclasses.asdict(t) for t in some] for name, some in forms}
    if backdoor.seen != Seen():
        usual = {f.name: f.default for f in dataclasses.fields(Seen)}
        seen = dataclasses.asdict(backdoor.seen).items()
        found["seen"] = {k: v for k, v in seen if k not in LATER or v != usual[k]}
    return found


__all__ = ["KINDS", "Kind", "describe", "kind_of", "make_judge"]
