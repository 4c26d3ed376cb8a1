from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.detecting.locating import finder
from t2i_backdoor_bench.detecting.rare_words import RareWords
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "rare_locate",
    needs=("clean_prompts", "stream"),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    ours="the whole locator",
)
@dataclass
class RareLocate(Defense):
    """The trigger is a word that no clean prompt has, that traffic has more often than chance
    explains, and that moves the model more than words which mean nothing.

    It reads the whole stream. Words count by an exact test (`detecting.candidates.new_words`): in a
    stream of prompts like the clean ones, one of them gets through with a chance of at most
    `level`, whatever the model is. With m clean prompts no share of much less than 1 - level^(1/m)
    can be told from words that the clean prompts lack by chance: 0.8 % of 300.

    Each of the `most` frequent of these words, with the neighbours that always stand beside it, is
    then looked at in the model, beside `decoys` texts of random letters in its place: how much do
    they change the predictions, in prompts of the stream that had the word? Effects are divided by
    the median of the word's own group, and a word passes that does more than the decoys of all
    groups. Of words that mean nothing, however many, one passes with a chance of at most
    1/(decoys + 1). A word that is new in traffic and that the model knows passes, too: without a
    clean model, what it means cannot be told from a backdoor. Of several that pass, the one that
    does most is the trigger.
    """

    level: float = option(0.1, above=0, high=1, help="such words expected by chance, at most")
    most: int = option(16, low=1, help="words that are looked at in the model, at most")
    decoys: int = option(19, low=1, help="random texts that each is compared with")
    tried: int = option(8, low=1, help="prompts of the stream, without the word, for each")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        how = RareWords(self.level, self.most, self.decoys, self.tried)
        located = how.trigger(model, view.stream, view.prompts, seed)
        return replace(model, screen=None, locate=finder(located), located=located)
