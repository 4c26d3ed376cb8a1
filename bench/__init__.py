"""Backdoor attacks and defenses on text-to-image diffusion models, measured by one protocol.

    from bench import load_base, run

    table = run(attacks="badt2i_pixel", defenses="none,skdcag", scale="smoke")   # a pandas DataFrame

Names are imported when they are first used: `import bench` itself is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "run": "bench.api",
    "read_table": "bench.api",
    "load_base": "bench.bases",
    "T2IModel": "bench.model",
    "WorldData": "bench.data",
    "register_attack": "bench.registry",
    "register_defense": "bench.registry",
    "register_metric": "bench.registry",
    "option": "bench.registry",
    "Backdoor": "bench.types",
    "DefenderView": "bench.types",
    "Samples": "bench.types",
    "Score": "bench.types",
    "Target": "bench.types",
    "Trigger": "bench.types",
    "UserError": "bench.types",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
