"""One cell of the matrix, and the record that is stored about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from t2i_backdoor_bench.contract.samples import Score

# What is measured, and how. Numbers of different protocols never stand in one table. Protocol 1 had
# no decoys and no residue, and a picture counted as restored by weaker evidence.
PROTOCOL = 2


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix. `key` hashes every configuration that its numbers depend on."""

    base: str
    attack: str
    defense: str
    seed: int
    key: str
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class Record:
    """What is stored about a cell: its configuration, its scores by metric name, its cost or why it
    failed, and what a reader needs to understand the numbers."""

    cell: Cell
    status: str  # "done", "failed", or "missing" for a planned cell that has not run
    scores: dict[str, Score] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    backdoor: dict[str, Any] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    # numbers, and the thinned losses: {"losses": {part: [...]}, "losses_attack": [...]}
    cost: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    metric_keys: dict[str, str] = field(default_factory=dict)  # how each metric was computed
    directions: dict[str, dict[str, Any]] = field(default_factory=dict)  # how each metric reads
    protocol: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)  # older records have none
    edits: str = ""  # what the attack changes, in words
    # how much of what can be counted the defense read, such as {"clean_prompts": 100}
    knowledge: dict[str, int] = field(default_factory=dict)
    # under which conditions the attack was made and is judged (`Attack` facts); {} in older records
    attack: dict[str, Any] = field(default_factory=dict)
    done_before: bool = False  # it was done, and a further metric failed

    def origin(self, what: str) -> str:
        """What the record says of its origin, such as `attack_weights` (a checksum) or `machine`;
        "" where it says nothing."""
        return str(self.provenance.get(what, ""))

    @property
    def measured_by(self) -> int:
        """The protocol that the numbers are of. Records of the first do not say."""
        found = self.protocol.get("protocol", 1)
        return found if isinstance(found, int) else 1
