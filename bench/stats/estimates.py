"""The functions of this room that others use, under one name."""

from __future__ import annotations

from t2i_backdoor_bench.stats.crossed import Values, crossed_mean
from t2i_backdoor_bench.stats.detectors import (
    FEWEST,
    auroc,
    auroc_estimate,
    auroc_of_kinds,
    f1,
    f1_estimate,
    threshold_at,
    tpr_at,
)
from t2i_backdoor_bench.stats.intervals import LEVEL, Estimate, bootstrap_mean, wilson
from t2i_backdoor_bench.stats.paired import (
    Difference,
    equivalent,
    holm,
    mcnemar,
    non_inferior,
    paired_difference,
)
from t2i_backdoor_bench.stats.pooling import (
    leaves_out,
    mean_over_attacks,
    pool_mean,
    pool_proportion,
    pool_values,
)
from t2i_backdoor_bench.stats.ranks import rank_correlation, tau_b
from t2i_backdoor_bench.stats.scores import mean, proportion

__all__ = [
    "FEWEST",
    "LEVEL",
    "Difference",
    "Estimate",
    "Values",
    "auroc",
    "auroc_estimate",
    "auroc_of_kinds",
    "bootstrap_mean",
    "crossed_mean",
    "equivalent",
    "f1",
    "f1_estimate",
    "holm",
    "leaves_out",
    "mcnemar",
    "mean",
    "mean_over_attacks",
    "non_inferior",
    "paired_difference",
    "pool_mean",
    "pool_proportion",
    "pool_values",
    "proportion",
    "rank_correlation",
    "tau_b",
    "threshold_at",
    "tpr_at",
    "wilson",
]
