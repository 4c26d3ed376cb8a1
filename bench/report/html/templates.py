"""Renders the templates of this folder: every value is escaped, and a missing one is an error."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from t2i_backdoor_bench.contract.printable import lines

FOLDER = Path(__file__).parent


@cache
def environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["pieces"] = pieces
    found.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "separators": (",", ":"),
        "allow_nan": False,
    }
    return found


def printable(value: Any) -> Any:
    """A value with its texts as they can be shown: no control characters, no turned writing
    direction. What is markup already stays."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return lines(value)
    if isinstance(value, dict):
        return {lines(str(k)): printable(v) for k, v in value.items()}
    return [printable(v) for v in value] if isinstance(value, (list, tuple)) else value


def render(template: str, **values: Any) -> str:
    return environment().get_template(template).render(**values)


def pieces(name: str) -> list[str]:
    """A name in parts, between which a line may break: after its underscores and signs."""
    return re.findall(r"[^_+,\[=]*[_+,\[=]|[^_+,\[=]+", name)
