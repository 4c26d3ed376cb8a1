"""What other installed packages add, by entry points: `t2i_backdoor_bench.attacks`, `.defenses`,
`.metrics`, `.targets` (kinds of targets, each with its judge) and `.bases` (base models)."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from t2i_backdoor_bench.contract.errors import UserError

GROUPS = ("attacks", "defenses", "metrics", "targets", "bases")


def points(group: str) -> list[EntryPoint]:
    """The installed entry points of a group of this suite, nothing of them imported."""
    return list(entry_points(group=f"t2i_backdoor_bench.{group}"))


def plugged(group: str) -> dict[str, Any]:
    """What the entry points of a group name. Raises UserError, with the package's name, for one
    that cannot be imported, and for two of one name."""
    found: dict[str, Any] = {}
    for point in points(group):
        package = point.dist.name if point.dist else "an installed package"
        kind = group.removesuffix("s")
        try:
            thing = point.load()
        except (Exception, SystemExit) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"the {kind} {point.name!r} of {package} cannot be loaded "
                f"({type(error).__name__}: {first}); repair or remove {package}"
            ) from error
        if point.name in found:
            raise UserError(f"two installed packages have a {kind} {point.name!r}; remove one")
        found[point.name] = thing
    return found
