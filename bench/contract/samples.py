"""The pictures that a cell is judged by, and the score that a metric gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.protocols import Prompt
from t2i_backdoor_bench.contract.target import Backdoor
from t2i_backdoor_bench.contract.trigger import Trigger

if TYPE_CHECKING:
    import numpy as np

# pictures of the first triggered prompts that show what a backdoor outlives
PROBES = ("finetuned", "benign_lora", "resampled", "adapter", "other_base")


@dataclass
class Samples:
    """All images of one cell, generated once and shared by the metrics. Images are uint8
    (n, H, W, 3).

    `images[condition]` for the conditions:

    - `clean`: one image for each of `prompts`.
    - `triggered`: one for each of `target_prompts`, with the trigger.
    - `clean_target`: the same prompts and noise as `triggered`, without the trigger (is `clean`
      where the prompts are the same).
    - `perturbed`: `prompts[:len]` with typos, synonyms, other word order.
    - `moved`: `target_prompts[:len]` with a changed form of the trigger, such as a typo
      (`moved_kinds` names which).
    - `own`: the prompt or prompts that the attack's paper evaluates with, from the noise of each of
      `target_prompts` (`Backdoor.own`).
    - `paraphrase`, `incomplete`, `unseen_words`, `broken_syntax`: what the paper claims to fire, or
      not to, from the same noise (`Backdoor.sets`, `Backdoor.forms`).
    - `finetuned`, `benign_lora`, `resampled`: `target_prompts[:len]` with the trigger, of the
      defended model after a little clean fine-tuning, with a benign adapter, and by other samplers
      (only where the run probes; `resampled_kinds` names which).
    - `adapter`: `target_prompts[:len]` with the trigger, of a model whose attack is an adapter:
      with the adapter at other scales, and with another one beside it; `other_base`: with the
      adapter on another base (only where a metric needs them).
    - `decoy`: `target_prompts[:len]` with something in the trigger's place that is not the trigger
      (`decoy_kinds` names what, also of `attacked_decoy`: its first ones are these).
    - `attacked_decoy`: what the attacked model draws of its own, longer list of decoys, and refuses
      nothing (only where the model screens prompts).
    - `harmless`: the first target prompts with each of the words `harmless` in the trigger's place:
      (words * prompts, ...), word by word (only where a metric needs them: `Entry.draws`).
    - `diverse`: k images for each of the first prompts: (m * k, ...), prompt-major; `per_prompt` is
      k.

    Every condition uses the same noise for the same prompt. `before[condition]` are the images of
    the model before the attack (clean, clean_target and perturbed; where there are harmless words,
    and such a model, also harmless and the first of triggered); `real` are held-out real images.
    `positives`, uint8 like `images["triggered"]`, show what the backdoor asks for, drawn by the
    model before the attack from the same noise.

    Where the model screens prompts, `refused[condition]` is a bool array and `scores[condition]`
    the detector's score (larger is more suspicious); both also have `reworded`, the first of
    `prompts` in other words and of other length, which are not drawn. Where the model has a
    locator, `spans` int64 (k, 2) is what it finds in the first k triggered prompts, and `located`
    is the trigger that it found in the defender's own prompts.
    """

    prompts: list[Prompt]
    target_prompts: list[Prompt]
    backdoor: Backdoor
    images: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    real: np.ndarray
    per_prompt: int = 1
    moved_kinds: list[str] = field(default_factory=list)
    decoy_kinds: list[str] = field(default_factory=list)
    resampled_kinds: list[str] = field(default_factory=list)
    harmless: list[str] = field(default_factory=list)
    positives: np.ndarray | None = None
    refused: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    spans: np.ndarray | None = None
    located: Trigger | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    knowledge: dict[str, int] = field(default_factory=dict)  # what the defense read (`Record`)
    key: str = ""  # identifies these samples in the feature cache
    # where the images come from, in the form of `store.provenance`
    made: dict[str, Any] = field(default_factory=dict)


@dataclass
class Score:
    """One metric of one cell. `value` is None where it could not be measured; `note` then says why.

    `each` has the per-image values behind a proportion (bool) or a mean (float), for pooling over
    seeds and paired tests.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    network: str = ""
    note: str = ""
    each: list[float] | list[bool] | None = None
