"""What a run needs, imported: by the process that workers are copies of (`fork_server`), and by a
command meanwhile. What other packages bring, each process imports itself."""

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.quick_imports import quick_imports

with quick_imports():
    from t2i_backdoor_bench.running import run  # noqa: F401  all that it imports

    for _methods in (registry.attacks, registry.defenses, registry.metrics):
        _methods.load_own()
