from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.detecting.locating import words
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "vocabulary", needs=("clean_prompts",), groups=("control",), ours="the whole control"
)
@dataclass
class Vocabulary(Defense):
    """Every word that no clean prompt of the defender has is deleted before the model reads a
    prompt: the floor of "blind".

    It trains nothing, looks for nothing, and leaves the backdoor in the weights. In a world of few
    words it deletes each rare trigger, and no clean prompt changes. What it costs shows where users
    write as no clean prompt does: in misspelt prompts and synonyms (`robustness`), and in all
    prompts of a world with more words than the defender has seen. A trigger of ordinary words
    stays. A defense that is not given the trigger has to beat it.
    """

    prompts: int = option(
        300, low=1, scales=True, least=16, help="clean prompts whose words are known"
    )

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        before = model.rewrite or (lambda prompt: prompt)
        known = {word for prompt in view.first(self.prompts) for word in words(prompt.lower())}

        def rewrite(prompt: str) -> str:
            prompt = before(prompt)
            if known.issuperset(words(prompt.lower())):
                return prompt
            return " ".join(w for w in prompt.split() if known.issuperset(words(w.lower())))

        return replace(model, rewrite=rewrite)
