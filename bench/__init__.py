"""Backdoor attacks and defenses on text-to-image diffusion models, measured by one protocol.

    from t2i_backdoor_bench import load_base, run

    # a pandas DataFrame
    table = run(attacks="badt2i_pixel", defenses="none,skdcag", scale="smoke")

Names are imported when they are first used: `import t2i_backdoor_bench` itself is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "run": "t2i_backdoor_bench.api",
    "read_table": "t2i_backdoor_bench.api",
    "load_base": "t2i_backdoor_bench.models.catalog",
    "T2IModel": "t2i_backdoor_bench.models.model",
    "WorldData": "t2i_backdoor_bench.data.splits",
    "register_attack": "t2i_backdoor_bench.contract",
    "register_defense": "t2i_backdoor_bench.contract",
    "register_metric": "t2i_backdoor_bench.contract",
    "option": "t2i_backdoor_bench.contract",
    "Backdoor": "t2i_backdoor_bench.contract",
    "DefenderView": "t2i_backdoor_bench.contract",
    "Samples": "t2i_backdoor_bench.contract",
    "Score": "t2i_backdoor_bench.contract",
    "Target": "t2i_backdoor_bench.contract",
    "Trigger": "t2i_backdoor_bench.contract",
    "UserError": "t2i_backdoor_bench.contract",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 't2i_backdoor_bench' has no attribute {name!r}")
    # by getattr: the name is given as text
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
