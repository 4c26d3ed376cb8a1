"""Sentences about two rows that are no stronger than the interval of their difference over training
seeds."""

from __future__ import annotations

from t2i_backdoor_bench.stats.estimates import Difference, equivalent

MARGIN = 0.02  # two rows that differ by less than two points are called alike, where that is shown


def compared(one: str, other: str, found: Difference | None) -> str:
    """What is shown of two shares: which is ahead, that they are alike, or nothing."""
    if found is None or found.low is None or found.high is None:
        return f"there is no interval to compare {one} with {other}"
    ends = f"{points(found.value)} points [{points(found.low)}, {points(found.high)}]"
    if found.low > 0 or found.high < 0:
        first, second = (one, other) if found.low > 0 else (other, one)
        low, high = sorted((abs(found.low), abs(found.high)))
        size = f"{100 * abs(found.value):.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{first} is ahead of {second} by {size}"
    if equivalent(found, MARGIN):
        return f"{one} and {other} are within {100 * MARGIN:.0f} points of each other ({ends})"
    return f"no difference between {one} and {other} is shown ({ends})"


def points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # no "-0.0"


def difference_text(found: Difference | None) -> str:
    """ "+1.7 [-3.9, +7.3]", in points."""
    if found is None:
        return ""
    ends = "" if found.low is None else f" [{points(found.low)}, {points(found.high)}]"
    return f"{points(found.value)}{ends}"
