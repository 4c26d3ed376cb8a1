"""The first stage of a cell: the attacked model. It is trained once, stored, and always read back
from disk."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t2i_backdoor_bench.models.finite import NonFinite, check_weights
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.checkpoints import drop_checkpoints, of_attack
from t2i_backdoor_bench.running.cost import measured
from t2i_backdoor_bench.running.handed_over import untouched
from t2i_backdoor_bench.running.made_by import attack_sources, keep
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.record_format import MADE

REPORTED = ("steps", "parameters", "images", "losses")  # what an attack says of its training


class AttackFailed(RuntimeError):
    """The attack of this cell failed before; its traceback is the message."""


def attacked(shared: Shared, attack: str, seed: int) -> tuple[T2IModel, dict[str, Any]]:
    """The attacked model and what the attack cost. It is read back from disk even where it was just
    trained, so that a resumed run sees the same weights as an unbroken one."""
    key = shared.plan.attack_key(attack, seed)
    if key in shared.failed:
        raise AttackFailed(shared.failed[key])
    if shared.models.attacked[0] == key:
        return shared.models.attacked[1]
    shared.models.attacked = ("", None)
    cost, path = _stored(shared, key)
    if cost is None or path is None:
        with shared.store.claim(f"models/{key}", wait=True):
            cost, path = _stored(shared, key)  # another process may have trained it meanwhile
            if cost is None or path is None:
                try:
                    cost, path = _train(shared, attack, seed, f"models/{key}")
                except NonFinite as error:
                    shared.failed[key] = str(error)
                    raise
                except (Exception, SystemExit):
                    shared.failed[key] = traceback.format_exc()
                    raise
    model = shared.model.with_weights(path)
    check_weights(model.edited, f"the attack {attack}")  # stored ones may be of an older version
    shared.models.attacked = (key, (model, cost))
    return shared.models.attacked[1]


def _stored(shared: Shared, key: str) -> tuple[dict[str, Any] | None, Path | None]:
    name = f"models/{key}"
    return shared.store.read_record(name, MADE), shared.store.find_file(f"{name}.safetensors")


def _train(shared: Shared, attack: str, seed: int, name: str) -> tuple[dict[str, Any], Path]:
    shared.display.phase("train the attack")
    base = shared.model
    torch.manual_seed(seed)
    kept = of_attack(shared, attack, seed)
    given = replace(base, checkpoints=kept)
    with shared.offloaded(base), untouched(base, f"attack {attack}"), measured(base.device) as cost:
        model = shared.plan.attacks[attack].instance.inject(given, shared.data, seed)
    cost["seconds"] += kept.seconds
    check_weights(model.edited, f"the attack {attack}")
    cost |= {k: model.info[k] for k in REPORTED if k in model.info}
    path = shared.store.write_file(f"{name}.safetensors", model.save_weights)
    cost["made"] = provenance.current_code()
    cost["sources"] = keep(shared.store, attack_sources(shared.plan, attack))
    shared.store.write_record(name, cost)
    drop_checkpoints(shared.store, [shared.plan.attack_key(attack, seed)])
    _warn_of_other_weights(shared, attack, seed, shared.store.checksum(f"{name}.safetensors"))
    return cost, path


def _warn_of_other_weights(shared: Shared, attack: str, seed: int, weights: str) -> None:
    """Say that stored cells of an attack were made from other weights than those it has now
    (`weights`): training on another machine gives others."""
    cells = [c for c in shared.plan.cells if (c.attack, c.seed) == (attack, seed)]
    stored = [found for c in cells if (found := shared.store.read_result(c.key))]
    others = sum(provenance.other_weights(r.origin("attack_weights"), weights) for r in stored)
    if others:
        shared.display.say(
            f"{attack}, seed {seed}: trained here, its weights are not those of its {others}"
            " stored cells (another machine or other libraries), so that there is nothing to"
            " pair with them; --fresh makes all anew"
        )


@contextmanager
def reserved(shared: Shared, attack: str, seed: int) -> Iterator[bool]:
    """Whether this process may work on cells of the attack for the length of the block: its weights
    are stored, or it alone is to train them. False where another process is about to train it."""
    key = shared.plan.attack_key(attack, seed)
    known = key in shared.failed or shared.models.attacked[0] == key
    if known or None not in _stored(shared, key):
        yield True
        return
    with shared.store.claim(f"models/{key}") as mine:
        yield mine
