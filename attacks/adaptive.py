from dataclasses import dataclass, replace

from t2i_backdoor_bench.attacking.hardening import moved, unseen
from t2i_backdoor_bench.attacking.settling import added, settling
from t2i_backdoor_bench.contract import (
    Attack,
    Backdoor,
    Data,
    Difference,
    Hardening,
    Rehearsal,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.contract.options import DATA, scaled
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim

PICTURES = 64  # captions of the attacker's, each drawn without and with the trigger

DIFFERS = (
    Difference(
        what="how the backdoor outlives a removal",
        paper="the trigger is bound to a concept before this is erased, at one of three depths:"
        " text encoder, cross-attention, or the whole score (DISA)",
        here="the named defense is rehearsed, and the backdoor's gradient is taken behind it; the"
        " depth is that of the attack before the +, as rickrolling_tpa, eviledit or badt2i_object",
        why="it meets any registered defense, and not erasures of a concept alone",
    ),
    Difference(
        what="detectors",
        paper="none: it evades erasures",
        here="settings of the attack are searched; no penalty, as on the norms of end tokens or on"
        " the distance of attention maps, is added to its loss",
        why="a penalty suits one detector; the search asks any of them what it refuses",
    ),
)


@register_attack(
    "adaptive",
    paper="braun2026erased",
    groups=("adaptive",),
    edits="what the attack before it edits",
    evaluates="captions",
    settings="ours",
    apart=True,
    ours="the form for any defense, and its rehearsal",
    version=3,
    differs=DIFFERS,
)
@dataclass
class Adaptive(Hardening):
    """Makes the attack before it survive a defense that the attacker knows:
    "badt2i_object+adaptive[against=skdcag]".

    The attacker has the defense, the clean model, and prompts and pictures of the train split, not
    the defender's. Against a defense that changes weights: in each of `rounds` the defense is
    applied to a copy, the attack is trained again from there, and the attacked weights are moved by
    `rate` times what that training changed. This is first-order meta-learning (Finn et al. 2017,
    Nichol et al. 2018): the gradient of the backdoor's loss is taken at the repaired weights and
    applied to the attacked ones. Both trainings have `share` of their steps,
    and all of their data. Alone this makes a backdoor that fires without its trigger. So in each
    round the model then trains `settle` steps to predict what the plain attack does, for clean
    prompts and for triggered ones. Against a detector,
    which leaves the weights alone: of `settings` settings, the attack's own and random ones over
    the ranges of its options, the one whose triggered prompts are refused least is trained in full;
    those by which the model reacts to its trigger less than half as strongly are out.
    """

    against: str = option("", help="the defense that the attacker knows")
    rounds: int = option(4, low=1, scales=True, help="repairs that are rehearsed")
    share: float = option(0.25, above=0, high=1, help="of the steps of attack and defense a round")
    rate: float = option(3.0, above=0, help="how far the weights go a round")
    settle: int = option(
        30, low=0, scales=True, help="steps a round by which it stays unnoticed; 0: none"
    )
    lr: float = option(3e-4, sd=1e-5, above=0, help="learning rate of these steps")
    settings: int = option(6, low=1, scales=True, help="settings tried against a detector")

    def backdoor(self, model: T2IModel) -> Backdoor:
        raise UserError("adaptive has no backdoor of its own: write ATTACK+adaptive[against=...]")

    def harden(
        self, attack: Attack, attacked: T2IModel, rehearse: Rehearsal, data: Data, seed: int
    ) -> T2IModel:
        repaired, brief = rehearse(attacked, seed, self.share), scaled(attack, DATA, self.share)
        if repaired.screen is not None:
            return unseen(attack, attacked, rehearse, data, seed, self.settings, self.share)
        model, spent = attacked, {"steps": 0, "images": 0}
        settle = settling(rehearse, attacked, data, PICTURES, seed) if self.settle else None
        for i in range(1, self.rounds + 1):
            again = brief.inject(replace(repaired, info={}), data, seed + i)
            model = moved(model, repaired, again, self.rate)
            if settle is not None:
                model = settle(model, Optim(self.settle, self.lr), seed + i)
            for part in (repaired, again, model):
                spent = added(spent, part.info)
            if i < self.rounds:
                repaired = rehearse(model, seed + i, self.share)
        return replace(model, info=spent)
