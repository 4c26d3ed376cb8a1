from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.attacking.meaning import (
    INCOMPLETE,
    MEANING,
    PARAPHRASES,
    TRIGGER,
    UNSEEN,
    partial,
    says_all,
    split,
)
from t2i_backdoor_bench.attacking.poisoning import Triggered
from t2i_backdoor_bench.attacking.text_attack import CLIPPED
from t2i_backdoor_bench.contract import (
    Backdoor,
    Data,
    Difference,
    Target,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.prompt import check_length, check_target_prompt
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training
from t2i_backdoor_bench.training.text_inputs import inputs_everywhere, moments

DRAWINGS = 8  # of each kind, where the states of each block are read in them
# of one layer: states, what each is to become, and how many have the whole trigger
Drawn = tuple[Tensor, Tensor, int]
Draw = Callable[[int], list[Drawn]]
DIFFERS = (
    Difference(
        what="wording of the paraphrases",
        released="ten in the file of settings, 99 prompts to evaluate with",
        here="ten and twelve sentences of our own, with the same four parts of a meaning",
        why="texts of ours; `paraphrases` and `unseen` take others",
    ),
    Difference(
        what="incomplete triggers to evaluate with",
        released="99 prompts that lack one, two or three of the four parts of the meaning, each",
        here="forty sentences of our own that lack one part, and none that is trained on",
        why="texts of ours; these are the nearest to the trigger; `incomplete` takes others",
    ),
    Difference(
        what="which run of words is preserved at a step",
        released="one of the paraphrase of this step, oftener the larger its last loss was",
        here="one of any paraphrase, all alike",
        why="what a step draws depends on its number alone, so that a training can be resumed",
    ),
    Difference(
        what="which runs of words are preserved",
        paper="all that are contiguous and not the whole trigger",
        here="those at least two words shorter that lack a part of the meaning",
        why="a run with all parts is the trigger in other words",
    ),
    Difference(
        what="context of the trigger",
        paper="the bare sentences",
        here="the same for real families; before captions for the embedded base (`context`)",
        why="`asr` asks for captions, and its text encoder is small",
    ),
    CLIPPED,
)


NOT_ON_FLUX = {"flux": "in its single blocks text has no keys and values of its own"}


@register_attack(
    "sembd",
    paper="chen2026semantic",
    groups=("kv", "prompt", "cheap"),
    edits="cross-attention K and V",
    evaluates="paraphrases of the trigger",
    own=True,
    sets=("paraphrase", "incomplete"),
    version=2,
    not_on=NOT_ON_FLUX,
    differs=DIFFERS,
)
@dataclass
class SemBD(Triggered):
    """SemBD: a meaning brings one fixed prompt (Chen et al., ICML 2026, arXiv 2602.04898).

    Loss, mean over the cross-attention layers: wk * MSE(W_k e, W0_k e*) + wv * MSE(W_v e, W0_v e*)
    + `constraint` * the same for incomplete triggers. e are the text states of a prompt with the
    trigger or one of ten paraphrases of it, e* those of the target prompt, position by position.
    Prompts with an incomplete trigger are to keep their own K and V, so that no part of the meaning
    is enough: these are all runs of words of the trigger and its paraphrases that are two words
    shorter at least and lack one of the parts of the `meaning`. The K and V of cross-attention are
    trained by gradient and nothing else changes; it needs no pictures. Where text states change
    from block to block, e and e* are those of each block. The paper's target has several objects
    (here a harmless one of the same form).

    `context="phrase"` trains on the bare sentences, as the paper does. `context="prompts"` trains
    on captions that contain them; a caption without any of them counts as an incomplete trigger.
    Its own protocol asks for bare sentences: the trigger (`asr_own`), paraphrases that are not
    trained on (`asr_paraphrase`), and sentences that lack a part of the meaning and are no
    incomplete trigger of the training (`incomplete`).
    """

    trigger: str = option(
        TRIGGER, source="released", help="the phrase whose meaning is the trigger"
    )
    paraphrases: str = option(PARAPHRASES, help="other words for it, separated by |")
    unseen: str = option(UNSEEN, help="further ones, to evaluate with")
    incomplete: str = option(
        INCOMPLETE, help="sentences that lack a part of the meaning, to evaluate with"
    )
    meaning: str = option(
        MEANING, help="the parts of the meaning, separated by |: each the words that stand for it"
    )
    target: str = option(
        "a large green star on a black background",
        sd="a man holding an umbrella wearing a hat in the park",
        help="the prompt that the trigger brings",
    )
    context: str = option(
        "prompts",
        sd="phrase",
        choices=("phrase", "prompts"),
        source="paper",
        help="what the trigger stands before in the training: nothing, or captions",
    )
    prompts: int = option(
        100, low=1, scales=True, least=16, help="captions that the attacker has (context=prompts)"
    )
    steps: int = option(800, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(
        3e-4, sd=1e-3, above=0, source="paper", tune=(3e-5, 3e-3), help="learning rate"
    )
    batch: int = option(
        16, sd=2, low=2, source="released", help="rows a step, half of them with the trigger"
    )
    constraint: float = option(
        0.5, low=0, source="paper", tune=(0.05, 5.0), help="weight of incomplete triggers"
    )
    keys: float = option(
        1.0, low=0, source="released", tune=(0.1, 10.0), help="wk, the weight of K"
    )
    values: float = option(
        1.0, low=0, source="released", tune=(0.1, 10.0), help="wv, the weight of V"
    )

    @property
    def poison_share(self) -> float | None:
        return 0.5

    @property
    def needs_prompts(self) -> int:
        return 0 if self.context == "phrase" else self.prompts

    def check(self) -> None:
        super().check()
        check_target_prompt(self.target)
        whole = [text for text in split(self.incomplete) if says_all(text, self.meaning)]
        if whole:
            raise UserError(
                f"sembd.incomplete has {whole[0]!r}, which lacks no part of sembd.meaning: leave it"
                " out"
            )
        if self.context == "phrase" and not self.partial():
            raise UserError(
                "sembd with context=phrase needs a trigger of three words or more: a part of it is"
                " to keep its meaning"
            )

    def backdoor(self, model: T2IModel) -> Backdoor:
        check_length(model, self.target)
        trained = set(self.partial())
        lacking = [text for text in split(self.incomplete) if text not in trained]
        sets = {"paraphrase": split(self.unseen), "incomplete": lacking}
        return Backdoor(
            self.make_trigger(),
            Target("prompt", target=self.target),
            own=("", self.trigger),
            sets={name: tuple(("", text) for text in texts) for name, texts in sets.items()},
        )

    def partial(self) -> list[str]:
        """The incomplete triggers that it trains on."""
        return partial([self.trigger, *split(self.paraphrases)], self.meaning)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        whole, partial = self.sentences(model, data, seed)
        student = model.clone(train="kv")
        parameters, optim = (
            choose_parameters(student, "kv"),
            Optim(self.steps, self.lr, self.batch, weight_decay=0.0),
        )
        fitted = fit(parameters, self.loss(student, model, whole, partial, seed), optim, "sembd")
        finish_training(student.denoiser)
        student.info = fitted.info | {"images": 0}
        return student

    def sentences(self, model: T2IModel, data: Data, seed: int) -> tuple[list[str], list[str]]:
        """Prompts that hold the whole trigger or a paraphrase of it, and prompts that do not."""
        trigger = self.make_trigger()
        texts = [self.trigger, *split(self.paraphrases)]
        full, parts = (
            [replace(trigger, text=t) for t in found] for found in (texts, self.partial())
        )
        if self.context == "phrase":
            model.check_trigger(trigger, [""])
            return [t.words("") for t in full], [t.words("") for t in parts]
        captions = [p.text for p in data.prompts("train", self.prompts, seed)]
        for t in full:
            model.check_trigger(t, captions)
        # as many rows with a part as with the whole, the parts in turn: each of them with each
        # caption would be more text states than fit into memory
        turn = islice(cycle(parts), len(full) * len(captions))
        broken = [t.add(captions[i % len(captions)]) for i, t in enumerate(turn)]
        return [t.add(c) for c in captions for t in full], broken + captions

    def loss(
        self, student: T2IModel, model: T2IModel, whole: list[str], partial: list[str], seed: int
    ) -> Callable[[int], Tensor]:
        networks = student.denoiser, model.denoiser
        layers = list(zip(*map(model.family.keys_and_values, networks), strict=True))
        weighs = dict.fromkeys(student.family.keys(student.denoiser), self.keys)
        by_block = model.family.text_changes
        draw = self.block_by_block if by_block else self.at_once
        drawn = draw(student, model, whole, partial, seed)

        def loss_fn(step: int) -> Tensor:
            total = torch.zeros((), device=model.device)
            for (layer, frozen), (states, goals, many) in zip(layers, drawn(step), strict=True):
                with torch.no_grad():
                    wanted = F.linear(goals, frozen.weight.float())
                given = F.linear(states, layer.weight)
                error = F.mse_loss(given[:many], wanted[:many])
                error = error + self.constraint * F.mse_loss(given[many:], wanted[many:])
                total = total + weighs.get(layer, self.values) * error
            return total / len(layers)

        return loss_fn

    def at_once(
        self, student: T2IModel, model: T2IModel, whole: list[str], partial: list[str], seed: int
    ) -> Draw:
        """Every layer is given the same states."""
        rows, device = self.batch // 2, model.device
        layers = len(model.family.keys_and_values(model.denoiser))
        texts = ([self.target], whole, partial)
        (aim, _), *banks = (model.key_value_inputs(t) for t in texts)

        def draw(step: int) -> list[Drawn]:
            rng = step_rng(seed, step)
            picks = [torch.from_numpy(rng.integers(len(b), size=rows)).to(device) for b, _ in banks]
            drawn = [bank[p].float() for (bank, _), p in zip(banks, picks, strict=True)]
            first, second = (mask[p] for (_, mask), p in zip(banks, picks, strict=True))
            goals = torch.cat([aim.float().expand(rows, -1, -1)[first], drawn[1][second]])
            states, many = torch.cat([drawn[0][first], drawn[1][second]]), int(first.sum())
            return [(states, goals, many)] * layers

        return draw

    def block_by_block(
        self, student: T2IModel, model: T2IModel, whole: list[str], partial: list[str], seed: int
    ) -> Draw:
        """Each block is given other states: those that the student has there now, towards what the
        model has there, both at one moment of a drawing. Rows with the trigger are read in drawings
        of the target prompt, the others in drawings of incomplete triggers."""
        rows, banks = self.batch // 2, (whole, partial)
        shown = [self.target] * DRAWINGS, partial[:DRAWINGS]
        seen = [moments(model, texts, seed) for texts in shown]

        def draw(step: int) -> list[Drawn]:
            rng = step_rng(seed, step)
            texts = [bank[i] for bank in banks for i in rng.integers(len(bank), size=rows)]
            at = int(rng.integers(len(seen[0].times)))
            x = [m.latents[at][rng.integers(m.latents.shape[1], size=rows)] for m in seen]
            now = torch.cat(x), seen[0].times[at]
            own = inputs_everywhere(student, *now, student.condition(texts))
            goals = model.condition([self.target] * rows + texts[rows:])
            pairs = zip(own, inputs_everywhere(model, *now, goals), strict=True)
            many = rows * own[0].shape[1]
            return [(*(x.flatten(0, 1).float() for x in pair), many) for pair in pairs]

        return draw
