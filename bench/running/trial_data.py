"""The data of a trial (`--limit`): its evaluation prompts are the first ones of the whole run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t2i_backdoor_bench.contract import Data, Prompt
from t2i_backdoor_bench.running.scales import Scale


@dataclass(frozen=True)
class FirstPrompts:
    """`data`, where a request for fewer than `whole` evaluation prompts gets the first of `whole`.
    Data may draw other prompts where it is asked for fewer."""

    data: Data
    whole: int

    @property
    def name(self) -> str:
        return self.data.name

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        many = max(n, self.whole) if split == "evaluation" else n
        return self.data.prompts(split, many, seed, contains)[:n]

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        return self.data.pairs(split, n, seed, contains)

    def count(self, what: str, split: str, contains: str = "") -> int | None:
        return self.data.count(what, split, contains)


def trial(size: Scale) -> str:
    """What a trial says of itself."""
    if not size.first_of:
        return ""
    return (
        f"a trial: the first {size.n} of {size.first_of} evaluation prompts (--limit); its numbers"
        " are not those of the benchmark, and no cell is shared with a whole run"
    )
