from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.detecting.inversion import Search, inverted
from t2i_backdoor_bench.detecting.locating import finder
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "invert_trigger",
    needs=("clean_prompts",),
    gives=("trigger",),
    groups=("localization",),
    locates=True,
    version=2,
    ours="the whole, after trigger inversion in classifiers and greedy coordinate gradients",
)
@dataclass
class InvertTrigger(Defense):
    """The trigger is searched in the model itself: no traffic is needed.

    Tokens that no clean prompt has are put together to the text that, before clean prompts, does
    most unusual things to the denoiser's predictions: to all pictures, to some prompts, or to a
    place in the picture (`detecting.effects`). It is searched with new prompts and noise in each
    round and judged on others, and counts as a trigger if it is `above` standard deviations of
    random texts. The defenses behind it in a composition are given the text found: it need not be
    the attacker's, only one that does the same. Words of three or more letters, ordinary phrases,
    look-alikes and syntax are not searched.
    """

    scan: int = option(2000, low=1, help="single tokens that are tried first, at most")
    rounds: int = option(12, sd=30, low=1, scales=True, help="rounds of the search")
    tried: int = option(24, sd=64, low=1, help="new texts in a round")
    top: int = option(32, sd=256, low=1, help="tokens that the gradient favours at a place")
    asked: int = option(6, low=2, help="clean prompts in a round")
    longest: int = option(6, low=1, help="tokens of a text, at most")
    above: float = option(6.0, low=0, help="standard deviations that make a trigger")
    prompts: int = option(100, low=1, scales=True, least=16, help="clean prompts")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        how = Search(self.scan, self.rounds, self.tried, self.top, self.asked, self.longest)
        located = inverted(model, view.first(self.prompts), how, self.above, seed)
        return replace(model, screen=None, locate=finder(located), located=located)
