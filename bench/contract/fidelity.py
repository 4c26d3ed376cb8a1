"""Where a method of this suite is not what its paper says, or what its authors' code does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One fact of a method in which paper, released code and this suite are not all the same.

    - `what`: what it is about, such as "rows a step"
    - `paper`: what the paper says; "" where it says nothing
    - `released`: what the authors' code does; "" where there is no code, or it says nothing
    - `here`: what this suite does
    - `why`: the reason for the difference; "" where `here` is what the paper says

    An option whose default differs needs none: the tables of options say where each default is
    from.
    """

    what: str
    here: str
    paper: str = ""
    released: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        if not (self.paper or self.released):
            raise ValueError(f"{self.what}: say what the paper or the released code does")
        if self.here != self.paper and not self.why:
            raise ValueError(f"{self.what}: say why it is {self.here!r} here")


def summary(doc: str, ours: str = "") -> str:
    """The first line of a docstring, led by what of the method is ours."""
    first = doc.strip().split("\n")[0]
    return f"Ours, in no paper: {ours}. {first}" if ours else first
