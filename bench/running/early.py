"""What a command begins once it is known that it will make cells: imports take seconds."""

from __future__ import annotations

import sys

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.quick_imports import quick_imports
from t2i_backdoor_bench.models.catalog import bases
from t2i_backdoor_bench.running.fork_server import begin
from t2i_backdoor_bench.running.settings import Config


def prepare(config: Config) -> Config:
    """Where workers will have a thread each, let what they are copies of import its modules; and
    import meanwhile what this process needs, once in its life. Returns the settings as they are."""
    known = bases().get(config.base)
    small = known is not None and known.settings == "shapes"
    if config.executor == "local" and config.workers != 1 and (small or config.threads):
        begin(config.device, config.threads or 1)
    if "t2i_backdoor_bench.running.run" in sys.modules:
        return config
    with quick_imports():
        from t2i_backdoor_bench.running import run  # noqa: F401  all that it imports

        for methods in (registry.attacks, registry.defenses, registry.metrics):
            methods.load_own()
    return config
