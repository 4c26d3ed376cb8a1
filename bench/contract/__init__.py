"""What a method is written against: base classes, options, the registry, and the values that pass
between methods and the core.

Imports: nothing of ours, and neither numpy nor torch, so that `list` is quick.
"""

from t2i_backdoor_bench.contract.cell import PROTOCOL, Cell, Record
from t2i_backdoor_bench.contract.errors import StorageError, Undeclared, UserError, no_exit
from t2i_backdoor_bench.contract.fidelity import Difference
from t2i_backdoor_bench.contract.methods import (
    Attack,
    Defense,
    Exposure,
    Hardening,
    Method,
    Metric,
    Rehearsal,
    Screen,
)
from t2i_backdoor_bench.contract.options import family_defaults, option, options_of
from t2i_backdoor_bench.contract.protocols import Data, Prompt
from t2i_backdoor_bench.contract.registry import (
    FAMILIES,
    Entry,
    Registry,
    attacks,
    defenses,
    metrics,
    register_attack,
    register_defense,
    register_metric,
    suggest,
)
from t2i_backdoor_bench.contract.samples import Samples, Score
from t2i_backdoor_bench.contract.target import SHARE, STREAM, Backdoor, Seen, Target
from t2i_backdoor_bench.contract.trigger import (
    CHOICE,
    CONTROL,
    OCCURRENCES,
    PLACES,
    Trigger,
    swapped,
    whole,
)
from t2i_backdoor_bench.contract.view import NEEDS, DefenderView, amounts

__all__ = [
    "CHOICE",
    "CONTROL",
    "FAMILIES",
    "NEEDS",
    "OCCURRENCES",
    "PLACES",
    "PROTOCOL",
    "SHARE",
    "STREAM",
    "Attack",
    "Backdoor",
    "Cell",
    "Data",
    "DefenderView",
    "Defense",
    "Difference",
    "Entry",
    "Exposure",
    "Hardening",
    "Method",
    "Metric",
    "Prompt",
    "Record",
    "Registry",
    "Rehearsal",
    "Samples",
    "Score",
    "Screen",
    "Seen",
    "StorageError",
    "Target",
    "Trigger",
    "Undeclared",
    "UserError",
    "amounts",
    "attacks",
    "defenses",
    "family_defaults",
    "metrics",
    "no_exit",
    "option",
    "options_of",
    "register_attack",
    "register_defense",
    "register_metric",
    "suggest",
    "swapped",
    "whole",
]
