"""Sweeps: one method with several values of an option, each a row of its own."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.contract.names import label, parts_of, read

Options = dict[str, str]


def parse(
    texts: Sequence[str], used: Collection[str], fixed: Mapping[str, Options]
) -> dict[str, list[Options]]:
    """ "name.option=v1,v2" to {name: [{option: v1}, {option: v2}]}; several options of one method
    are crossed. Raises UserError."""
    found: dict[str, dict[str, list[str]]] = {}
    for text in texts:
        target, equals, listed = text.partition("=")
        name, dot, key = target.strip().rpartition(".")
        values = list(dict.fromkeys(v.strip() for v in listed.split(",") if v.strip()))
        if not (equals and dot and name and key and values):
            raise UserError(
                f"--sweep {text!r} is not of the form name.option=value,value, such as"
                " skdcag.alpha=0,0.5,1"
            )
        if name not in used:
            raise UserError(
                f"--sweep {text}: {name!r} is not in this run; {suggest(name, used, 'in this run')}"
            )
        if key in fixed.get(name, {}) or key in found.get(name, {}):
            raise UserError(
                f"--sweep {text}: {name}.{key} is set twice; give it to --sweep or to --set, once"
            )
        found.setdefault(name, {})[key] = values
    return {
        n: [dict(zip(o, values, strict=True)) for values in itertools.product(*o.values())]
        for n, o in found.items()
    }


def expand(
    name: str, sweeps: Mapping[str, Sequence[Options]]
) -> dict[str, list[tuple[str, Options]]]:
    """A method, a variant or a composition to its variants: {"a[alpha=0.5]+b": [("a", {"alpha":
    "0.5"}), ("b", {})]}. Raises UserError where the name gives an option that is swept."""
    choices = []
    for method, own in map(read, parts_of(name)):
        options = sweeps.get(method, [{}])
        if twice := set(own) & set(options[0]):
            raise UserError(
                f"{name}: {method}.{min(twice)} is set in the name and by --sweep; set it once"
            )
        choices.append([(method, own | more) for more in options])
    return {
        "+".join(label(*part) for part in parts): list(parts)
        for parts in itertools.product(*choices)
    }
