"""What a defender sees in a cell."""

from __future__ import annotations

from collections.abc import Collection

from t2i_backdoor_bench.contract import DefenderView, Trigger
from t2i_backdoor_bench.running.defender import view_of
from t2i_backdoor_bench.running.shared import Shared


def view(
    shared: Shared, needs: Collection[str], attack: str, seed: int, located: Trigger | None = None
) -> DefenderView:
    """What a defense with these needs may see (`defender.view_of`)."""
    return view_of(
        needs,
        shared.backdoor(attack),
        lambda: shared.model,
        shared.data,
        shared.source(attack),
        seed,
        located,
        shared.once,
    )
