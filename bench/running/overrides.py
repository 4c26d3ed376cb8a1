"""Options that a user sets for one method of a run: `--set name.option=value`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.contract.names import parts_of, read


def parse_overrides(texts: Sequence[str], used: Collection[str]) -> dict[str, dict[str, str]]:
    """ "name.option=value" to {name: {option: value}}. A name that the run does not use is an
    error: the option would be ignored."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        name, dot, key = target.strip().rpartition(".")
        if not (equals and dot and name and key):
            raise UserError(
                f"--set {text!r} is not of the form name.option=value, such as skdcag.alpha=0.7"
            )
        if name not in used:
            raise UserError(
                f"--set {text}: {name!r} is not in this run; {suggest(name, used, 'in this run')}"
            )
        found.setdefault(name, {})[key] = value.strip()
    return found


def used_names(names: Sequence[str]) -> set[str]:
    """The methods of these names, and the defenses that adaptive attacks among them know."""
    variants = [read(part) for name in names for part in parts_of(name)]
    known = [own["against"] for _, own in variants if "against" in own]
    return {name for name, _ in variants} | {p for name in known for p in parts_of(name)}
