"""How strong the guidance of a guided distillation was, as its training reported it."""

from __future__ import annotations

from dataclasses import dataclass

from t2i_backdoor_bench.contract import Metric, Samples, Score, register_metric
from t2i_backdoor_bench.scoring.features import Features


@register_metric(
    "guidance_ratio",
    better="none",
    title="Guidance over distillation, gradient norms",
    short="Guidance ratio",
    group="cost",
    order=140,
    tables=(),
)
@dataclass
class GuidanceRatio(Metric):
    """Ratio of the norms of two gradients, that of a * L_attn over that of (1 - a) * L_pred.

    Over the weights that train, mean of at most eight steps spread evenly over the training
    (`skdcag`). It says how much of what moved the weights was guidance. Of the defenses without
    guidance it is not measured.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        value = samples.cost.get("guidance_ratio")
        if value is None:
            return Score(None, note="no guidance")
        return Score(float(value), n=1)
