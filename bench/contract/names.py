"""Names of variants: "skdcag[alpha=0.7,steps=50]" is a method with options, and "a[x=1]+b" is a
composition of two variants."""

from __future__ import annotations

import re
from collections.abc import Mapping

from t2i_backdoor_bench.contract.errors import UserError

INSIDE = r"(?![^\[]*\])"  # not between brackets: "1e+3" has a plus, and several options a comma


def names_of(text: str) -> list[str]:
    """The names in a list such as "a,b[x=1,y=2]". A comma between brackets separates options."""
    return [name.strip() for name in re.split(f",{INSIDE}", text) if name.strip()]


def parts_of(name: str) -> list[str]:
    """The variants of a composition such as "a[x=1]+b"."""
    return re.split(rf"\+{INSIDE}", name)


def label(name: str, options: Mapping[str, str]) -> str:
    """The name of a variant: "skdcag[alpha=0.5]"."""
    return f"{name}[{','.join(f'{k}={v}' for k, v in options.items())}]" if options else name


def read(part: str) -> tuple[str, dict[str, str]]:
    """The method and the options of a variant's name; without brackets there are no options. Raises
    UserError for brackets that hold anything else."""
    name, bracket, rest = part.partition("[")
    if not bracket:
        return part, {}
    pairs = [pair.partition("=") for pair in rest.removesuffix("]").split(",")]
    options = {key.strip(): value.strip() for key, _, value in pairs}
    if not (
        rest.endswith("]")
        and name
        and all(options)
        and all(equals for _, equals, _ in pairs)
        and len(options) == len(pairs)
    ):
        raise UserError(
            f"{part!r} is not of the form name[option=value,option=value], such as"
            " skdcag[alpha=0.7,steps=50]"
        )
    return name, options
