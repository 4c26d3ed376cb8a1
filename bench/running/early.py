"""What a command begins once it is known that it will make cells: imports take seconds."""

from __future__ import annotations

import importlib
import sys

from t2i_backdoor_bench.models.catalog import bases
from t2i_backdoor_bench.running.fork_server import PRELOADED, begin
from t2i_backdoor_bench.running.settings import Config


def prepare(config: Config) -> Config:
    """Where workers will have a thread each, let what they are copies of import its modules; and
    import meanwhile what this process needs, once in its life. Returns the settings as they are."""
    known = bases().get(config.base)
    small = known is not None and known.settings == "shapes"
    if config.executor == "local" and config.workers != 1 and (small or config.threads):
        begin(config.device, config.threads or 1)
    if "t2i_backdoor_bench.running.run" not in sys.modules:
        importlib.import_module(PRELOADED)
    return config
