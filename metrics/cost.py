"""What the defense cost, as the run measured it in `samples.cost`."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    "seconds_picture",
    better="lower",
    title="Seconds a picture",
    short="s a picture",
    group="cost",
    order=132,
    tables=("main", "leaderboard"),
)
@dataclass
class SecondsPicture(Metric):
    """Wall-clock seconds that the defended model takes for a picture: screening, rewriting, drawing
    and repair.

    Both models draw the same first prompts, two at a time and in turns, and the better of two
    rounds counts; the note has the ratio to the attacked model. Where a defense changes more than
    weights, the prompts have the trigger, since some defenses do nothing otherwise; the note then
    has the seconds of clean prompts, too. They depend on the machine: compare within one run only.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        score, cost = _cost(samples, "seconds_picture"), samples.cost
        before, clean = cost.get("seconds_picture_before"), cost.get("seconds_picture_clean")
        if score.value is None or not before:
            return score
        note = f"{score.value / before:.2f} times the attacked model's {before:.3g} s"
        if clean is not None:
            note += f", with the trigger in the prompt; without it {clean / before:.2f} times"
        return replace(score, note=note)


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


@register_metric(
    "settings_tried",
    better="none",
    title="Settings that were tried",
    short="Settings",
    group="cost",
    order=140,
    tables=("main",),
    about="Of how many settings, drawn at random, those of the defense were chosen.",
)
@dataclass
class SettingsTried(Metric):
    """Of how many settings those of the defense were chosen, on other attacks and prompts
    (`benchmarks/tune.py`).

    0: its defaults, without a search. A composition has the number of its least tried part. Not
    measured where options were set by hand.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        return _settings(samples, "settings_defense")


@register_metric(
    "settings_tried_attack",
    better="none",
    only="undefended",
    title="Settings of the attack that were tried",
    short="Settings",
    group="cost",
    order=140,
    tables=("attacks",),
    about="Of how many settings, drawn at random, those of the attack were chosen.",
)
@dataclass
class SettingsTriedAttack(Metric):
    """Of how many settings those of the attack were chosen, with another trigger and target
    (`benchmarks/tune.py`).

    0: its defaults, without a search.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        return _settings(samples, "settings_attack")


def _settings(samples: Samples, name: str) -> Score:
    score = _cost(samples, name)
    return score if score.value is not None else replace(score, note="its options were set by hand")
