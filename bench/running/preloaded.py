"""What a worker needs, imported: by the process that workers are copies of (`fork_server`). What
other packages bring, each worker imports itself."""

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.quick_imports import quick_imports

with quick_imports():
    from t2i_backdoor_bench.running import workers  # noqa: F401  all that it imports

    for _methods in (registry.attacks, registry.defenses, registry.metrics):
        _methods.load_own()
