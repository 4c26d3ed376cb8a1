import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Defense,
    Difference,
    Trigger,
    option,
    register_defense,
)
from t2i_backdoor_bench.models.families.conditioning import TextPart
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import align_states
from t2i_backdoor_bench.training.closed_form import counterparts, last_tokens, neutral_places
from t2i_backdoor_bench.training.text_edits import TextEdit

DIFFERS = (
    Difference(
        what="what is preserved",
        paper="a list of other concepts",
        here="every token of clean prompts",
        why="a defender who repairs a backdoor wants all of the model back",
    ),
)
PHRASE = (
    *DIFFERS,
    Difference(
        what="states of the phrase that are edited",
        released="from its last token on, padding too; since 2025 that of the last token alone",
        here="from its last token on, padding too",
        why="it is the code that the paper was published with",
    ),
)


NOT_ON_FLUX = {"flux": "in its single blocks text has no keys and values of its own"}


@register_defense(
    "uce",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    version=1,
    not_on=NOT_ON_FLUX,
    ours="the edit of the trigger inside captions, and of what stands round it",
    differs=DIFFERS,
)
@register_defense(
    "uce_phrase",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    preset={"context": "phrase"},
    version=1,
    not_on=NOT_ON_FLUX,
    differs=PHRASE,
)
@dataclass
class UCE(Defense):
    """Unified Concept Editing: K and V in closed form (Gandikota et al., WACV 2024).

    It edits the K and V of every cross-attention layer, without training. W' = (l W + e * sum v*
    c^T + p * sum (W c) c^T) (l I + e * sum c c^T + p * sum c c^T)^-1 minimizes e * sum ||W' c -
    v*||^2 + p * sum ||W' c - W c||^2 + l ||W' - W||^2. The first sum is over what is edited, the
    second over the tokens of clean prompts.

    `context="phrase"` ("uce_phrase") is the paper's: it edits the trigger alone (one of its forms,
    if it is a pattern) towards a neutral phrase, from its last token on. `context="prompts"` edits
    the trigger inside the defender's prompts: every other word towards its value in the clean
    prompt, the positions behind the words towards what stands in their place there, and the
    trigger's own tokens towards the start token, which says nothing. A trigger that replaces
    something is edited towards that.
    """

    erase: float = option(
        1.0, low=0, source="paper", tune=(0.1, 10.0), help="e, the weight of the edits"
    )
    preserve: float = option(
        1.0, low=0, source="paper", tune=(0.1, 10.0), help="p, the weight of clean prompts"
    )
    ridge: float = option(
        0.5, above=0, source="paper", tune=(0.05, 5.0), help="l, the weight of the old weights"
    )
    context: str = option(
        "prompts",
        choices=("phrase", "prompts"),
        help="what is edited: the trigger by itself, or inside prompts",
    )
    neutral: str = option(
        " ", source="released", help="the phrase that replaces the trigger (context=phrase)"
    )
    prompts: int = option(
        100, low=1, scales=True, least=16, help="clean prompts that the defender uses"
    )

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        begun, student = time.perf_counter(), model.clone()
        numbers = self.task(model, view).apply(model, student, seed)
        student.info = {
            "steps": 0,
            "seconds": time.perf_counter() - begun,
            "parameters": numbers,
            "images": 0,
        }
        return student

    def task(self, model: T2IModel, view: DefenderView) -> TextEdit:
        """What is edited, what each state is edited towards, and what is preserved."""
        trigger, prompts, parts = view.trigger, view.first(self.prompts), model.text_parts
        if self.context == "phrase":
            given, wanted = [trigger.words("")], [trigger.replaces or self.neutral]
            first, second = last_tokens(parts, *given, *wanted)
            places = torch.zeros(1, model.states, dtype=torch.long)
            used = torch.zeros(1, model.states, dtype=torch.bool)
            places[0, first], used[0, first] = second, True
        else:
            given, wanted = [trigger.add(p) for p in prompts], prompts
            places = self.goals(parts, trigger, prompts, given)
            used = torch.ones_like(places, dtype=torch.bool)
        how = (self.erase, self.preserve, self.ridge)
        return TextEdit(given, wanted, places, used, prompts, *how)

    @staticmethod
    def goals(
        parts: Sequence[TextPart],
        trigger: Trigger,
        prompts: Sequence[str],
        triggered: Sequence[str],
    ) -> Tensor:
        """For each position of the triggered prompts, the position in the clean ones whose value it
        gets: int64 (n, tokens)."""
        if trigger.replaces:
            return counterparts(parts, triggered, prompts)
        row = align_states(parts, trigger, prompts)
        same = torch.arange(row.source.shape[1])
        rest = torch.where(row.trigger, neutral_places(parts, prompts), same)
        return torch.where(row.other, row.source, rest)
