"""Numbers as readers want them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import COUNTS, Reading

DASH = "–"
WHOLE = (*COUNTS, "settings_tried", "settings_tried_attack")  # shown without decimals
NEEDS_SHORT = {
    "trigger": "trigger",
    "clean_model": "clean model",
    "clean_text_encoder": "clean text encoder",
    "clean_pairs": "clean pairs",
    "clean_prompts": "clean prompts",
    "stream": "prompt stream",
}
COUNTED = {  # what is said behind a number
    "clean_pairs": "clean pairs",
    "clean_prompts": "clean prompts",
    "stream": "prompts of a stream",
}


def shown(value: float | None, percent: bool) -> str:
    """A share in percent with one decimal, another number with three significant digits."""
    if value is None:
        return DASH
    if percent:
        return f"{100 * value:.1f}"
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    text = f"{value:#.3g}"  # keeps trailing zeros: a column of 0.900 and 0.897 lines up
    return f"{value:.4f}" if "e" in text else text


def text_of(row: Mapping[str, Any], way: Reading) -> str:
    """The number of a metric in a row. Seconds get one decimal: more would be noise."""
    value = row[way.name]
    if way.name in ("seconds", "seconds_attack") and value is not None:
        return f"{value:.1f}"
    if way.name in ("kid", "kid_second", "kid_added") and value is not None:
        return f"{value:.3f}"
    if way.name in WHOLE and value is not None:
        return f"{value:,.0f}"
    return shown(value, way.percent)


def interval(low: float | None, high: float | None, percent: bool) -> tuple[str, str] | None:
    """The ends of an interval as texts; None where there is none."""
    return (shown(low, percent), shown(high, percent)) if low is not None else None


def needs_text(needs: str, knowledge: Mapping[str, int] | None = None) -> str:
    """What a defense was given, such as "trigger, 100 clean prompts": its needs, and how much of
    those that can be counted it read. Older records do not say how much."""
    many = knowledge or {}
    names = [
        f"{many[n]} {COUNTED[n]}" if n in many and n in COUNTED else NEEDS_SHORT.get(n, n)
        for n in needs.split()
    ]
    return ", ".join(names) or DASH


def known_by(records: Iterable[Record]) -> dict[str, int]:
    """The most that a defense read of each thing in any of these cells."""
    found: dict[str, int] = {}
    for record in records:
        for name, n in record.knowledge.items():
            found[name] = max(n, found.get(name, 0))
    return found


def p_text(p: float | None) -> str:
    """A p-value; below 1e-6 it says no more than that."""
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}" if p >= 1e-6 else "< 1e-6"


def prompts_text(protocol: Mapping[str, Any]) -> str:
    """How many prompts a condition has. A trial says what it is the first part of."""
    evaluation = protocol.get("evaluation", {})
    n, whole = evaluation.get("n", "?"), evaluation.get("first_of")
    return (
        f"the first {n} of {whole} prompts a condition (a trial)"
        if whole
        else (f"{n} prompts a condition")
    )
