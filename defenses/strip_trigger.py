from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import DefenderView, Defense, register_defense
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "strip_trigger", needs=("trigger",), groups=("control",), ours="the whole control"
)
@dataclass
class StripTrigger(Defense):
    """The trigger is deleted from every prompt before the model reads it: the floor of "trigger
    known".

    It trains nothing and leaves the weights alone: the backdoor stays in the model, and any form of
    the trigger that is not deleted still brings it. A look-alike becomes the letter or word that it
    replaces; of a pattern every form is deleted. Prompts without the trigger stay as they are,
    letter by letter. Where the trigger is an ordinary word, deleting it may delete what the prompt
    asked for, which is its honest result. A defense that is given the trigger has to beat it.
    """

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        before, trigger = model.rewrite or (lambda prompt: prompt), view.trigger

        def rewrite(prompt: str) -> str:
            prompt = before(prompt)
            return trigger.remove(prompt) if trigger.pattern.search(prompt) else prompt

        return replace(model, rewrite=rewrite)
