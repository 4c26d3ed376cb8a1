"""A method of a run, with its options as they will be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from t2i_backdoor_bench.contract import Entry, Exposure
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.contract.options import options_of


@dataclass(frozen=True)
class Method:
    """An attack, a defense (or one part of a composition) or a metric, with its options as they
    will be used. `parts` are those of a combined attack, of which number `which` is judged;
    `against` are those of the defense that an adaptive attack knows."""

    name: str
    instance: Any
    entry: Entry
    parts: tuple[Method, ...] = ()
    which: int = 0
    against: tuple[Method, ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        if self.parts:
            last = self.parts[-1]
            exposed = isinstance(last.instance, Exposure)
            return self.weights_key | ({"seen": last.key} if exposed else {"which": self.which})
        values = vars(self.instance)
        known = options_of(type(self.instance)).items()
        late = {n for n, (f, o) in known if o.late and values[n] == f.default}
        options = {k: v for k, v in plain(self.instance, str).items() if k not in late}
        version = {"version": self.entry.version} if self.entry.version else {}
        return {"name": self.name, "options": options} | version

    @property
    def trained(self) -> tuple[Method, ...]:
        """The parts that make the weights: all but what defenders see of the trigger."""
        parts = self.parts or (self,)
        return tuple(part for part in parts if not isinstance(part.instance, Exposure))

    @property
    def tried(self) -> int | None:
        """Of how many settings the options were chosen; None where the user set some of them."""
        own = vars(self.instance)
        by_hand = self.entry.tried and any(own[k] != v for k, v in self.entry.tuned.items())
        return None if by_hand else self.entry.tried

    @property
    def weights_key(self) -> dict[str, Any]:
        """The key of the attacked weights. All rows of a combined attack share them, and an attack
        and what defenders see of its trigger do."""
        if not self.parts:
            return self.key
        if len(self.trained) < len(self.parts):
            return self.trained[0].weights_key
        known = {"against": [part.key for part in self.against]} if self.against else {}
        options = {"parts": [part.key for part in self.parts]} | known
        return {"name": self.name, "options": options}
