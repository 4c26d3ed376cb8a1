"""What a JSON value of others must look like: small checks that are put together.

Each check takes a value and where it stands, and raises WrongForm, a ValueError that names the
place, for another value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any, str], None]
LONGEST = 2000  # letters of a name
LARGEST = 1e30  # of any score, cost or count; the squares of larger ones are soon infinite
# what reading a file of others can end with
WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class WrongForm(ValueError):
    """A value is not what it must be."""


def refuse(where: str, what: str) -> None:
    raise WrongForm(f"{where or 'it'} {what}")


def anything(value: Any, where: str) -> None:
    """Every JSON value."""


def text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        refuse(where, "is no text")


def name(value: Any, where: str) -> None:
    """A text that names a method, a cell or a need; tables and figures lay it out letter by
    letter."""
    text(value, where)
    if len(value) > LONGEST:
        refuse(where, f"is longer than {LONGEST} letters")


def flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        refuse(where, "is not true or false")


def number(value: Any, where: str) -> None:
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right or not abs(value) <= LARGEST:
        refuse(where, "is no number")


def whole(value: Any, where: str) -> None:
    """A whole number of 0 or more: a count, or a seed."""
    number(value, where)
    if not isinstance(value, int) or value < 0:
        refuse(where, "is no whole number")


def share(value: Any, where: str) -> None:
    number(value, where)
    if not 0 <= value <= 1:
        refuse(where, "is no share from 0 to 1")


def one_of(*choices: str) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in choices:
            refuse(where, f"is none of {', '.join(choices)}")

    return check


def maybe(inner: Check) -> Check:
    """`null`, or what `inner` takes."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def each(*inner: Check) -> Check:
    """A list whose values all pass the same one of these checks."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            refuse(where, "is no list")
        for last, one in zip(range(len(inner))[::-1], inner, strict=True):
            try:
                for i, found in enumerate(value):
                    one(found, f"{where}[{i}]")
                return
            except WrongForm:
                if not last:
                    raise

    return check


def of_all(inner: Check, **named: Check) -> Check:
    """An object whose values pass `inner`, and those of some names another check."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            refuse(where, "is no object")
        for key, found in value.items():
            named.get(key, inner)(found, _inner(where, key))

    return check


def obj(
    *bases: Check, required: tuple[str, ...] = (), closed: bool = False, **fields: Check
) -> Check:
    """An object that has the `required` keys, and whose known fields pass their checks. A `closed`
    one has no other keys. `bases` are checks that it passes, too."""

    def check(value: Any, where: str) -> None:
        of_all(anything, **fields)(value, where)
        for base in bases:
            base(value, where)
        for key in required:
            if key not in value:
                refuse(_inner(where, key), "is missing")
        for key in value if closed else ():
            if key not in fields:
                refuse(_inner(where, key), "is no field that is known")

    return check


def _inner(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
