"""What the defense cost, as the run measured it in `samples.cost`."""

from __future__ import annotations

from dataclasses import dataclass

from t2i_backdoor_bench.contract import Metric, Samples, Score, register_metric
from t2i_backdoor_bench.scoring.features import Features


def _cost(samples: Samples, name: str) -> Score:
    value = samples.cost.get(name)
    return Score(None, note="not measured") if value is None else Score(float(value), n=1)


@register_metric(
    "seconds",
    better="lower",
    title="Seconds of the defense",
    short="Seconds",
    group="cost",
    order=130,
    tables=("main", "leaderboard"),
)
@dataclass
class Seconds(Metric):
    """Wall-clock seconds that the defense took.

    They depend on the machine: compare within one run only.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        return _cost(samples, "seconds")


@register_metric(
    "peak_memory_mb",
    better="lower",
    title="Peak memory, MB",
    short="Memory MB",
    group="cost",
    tables=(),
)
@dataclass
class PeakMemory(Metric):
    """Peak memory of the defense in megabytes.

    Memory of the accelerator where there is one, otherwise resident memory of the process.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        return _cost(samples, "peak_memory_mb")


@register_metric(
    "parameters",
    better="none",
    title="Parameters changed",
    short="Parameters",
    group="cost",
    tables=(),
)
@dataclass
class Parameters(Metric):
    """Number of parameters that the defense trained or edited."""

    def compute(self, samples: Samples, features: Features) -> Score:
        return _cost(samples, "parameters")
