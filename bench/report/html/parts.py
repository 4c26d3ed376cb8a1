"""Small parts of the report's HTML. Whatever comes from a record is escaped here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import rows as tables

NAMES = {
    "restoration_accuracy": "Restored",
    "removal_accuracy": "RA",
    "asr": "ASR",
    "false_trigger_rate": "FTR",
    "fid": "FID",
    "fid_change": "change of FID, %",
    "clip_score": "CLIP",
    "diversity": "Diversity",
    "drift": "Drift",
    "trigger_effect": "Trigger effect",
    "seconds": "Seconds",
}


def names_of(records: Sequence[Record], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(r.cell, field) for r in records))


def breakable(name: str) -> str:
    """A name that may break after its underscores and signs."""
    return re.sub(r"([_+,\[=])", r"\1<wbr>", escape(name))


def plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def to_script(value: Any) -> str:
    """JSON that cannot end its script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def ends_of(row: Mapping[str, Any], metric: str, percent: bool) -> str:
    """The interval of a row's metric, in small print."""
    low, high = row.get(f"{metric}_lo"), row.get(f"{metric}_hi")
    return (
        f"<small>{tables.shown(low, percent)} – {tables.shown(high, percent)}</small>"
        if low is not None
        else ""
    )


def scroll(label: str, inside: str) -> str:
    return (
        '<div class="scroll" role="region" tabindex="0"'
        f' aria-label="{escape(label)}">{inside}</div>'
    )


def heading(records: Sequence[Record], metric: str) -> str:
    way = tables.direction(records, metric)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(way["better"], "")
    return f"{NAMES.get(metric, metric)}{' %' if way['percent'] else ''}{arrow}"


def flat(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A nested mapping as pairs of words."""
    return [
        (k, ", ".join(f"{a} {b}" for a, b in v.items()) if isinstance(v, Mapping) else str(v))
        for k, v in value.items()
        if v not in ("", None)
    ]


def listed(pairs: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in pairs)}</dl>"
