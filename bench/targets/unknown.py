"""Targets of kind "unknown": a checkpoint is suspected, and nobody knows what its backdoor
draws."""

from __future__ import annotations

from t2i_backdoor_bench.contract import Target, UserError
from t2i_backdoor_bench.contract.protocols import Features
from t2i_backdoor_bench.targets.judge import Judge
from t2i_backdoor_bench.targets.kinds import Kind


class UnknownKind(Kind):
    name = "unknown"
    judged = False

    def judge(self, target: Target, scorer: Features) -> Judge:
        raise UserError("the target of the backdoor is not known: nothing can judge it")
