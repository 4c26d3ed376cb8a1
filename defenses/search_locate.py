from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.detecting.inversion import Search, inverted
from t2i_backdoor_bench.detecting.locating import finder
from t2i_backdoor_bench.detecting.rare_words import RareWords
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "search_locate",
    needs=("clean_prompts", "stream"),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    ours="the whole locator",
)
@dataclass
class SearchLocate(Defense):
    """What `rare_locate` finds in the stream; where that is nothing, what `invert_trigger` finds in
    the model.

    A trigger in one prompt of a hundred is found as its user writes it; one that is too rare to be
    counted, or in no prompt at all, is searched in the model. It gives a false alarm where one of
    the two does.
    """

    level: float = option(0.1, above=0, high=1, help="as of rare_locate")
    above: float = option(6.0, low=0, help="as of invert_trigger, and so are the rest")
    scan: int = option(2000, low=1, help="single tokens that are tried first, at most")
    rounds: int = option(12, sd=30, low=1, scales=True, help="rounds of the search")
    longest: int = option(6, low=1, help="tokens of a text, at most")
    prompts: int = option(100, low=1, scales=True, least=16, help="clean prompts of the search")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        located = RareWords(self.level).trigger(model, view.stream, view.prompts, seed)
        if located is None:
            how = Search(scan=self.scan, rounds=self.rounds, longest=self.longest)
            located = inverted(model, view.first(self.prompts), how, self.above, seed)
        return replace(model, screen=None, locate=finder(located), located=located)
