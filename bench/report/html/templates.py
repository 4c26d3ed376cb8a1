"""Renders the templates of this folder: every value is escaped, and a missing one is an error."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent


@cache
def environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
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


def render(template: str, **values: Any) -> str:
    return environment().get_template(template).render(**values)


def pieces(name: str) -> list[str]:
    """A name in parts, between which a line may break: after its underscores and signs."""
    return re.findall(r"[^_+,\[=]*[_+,\[=]|[^_+,\[=]+", name)
