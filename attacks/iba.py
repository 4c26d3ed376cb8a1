from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.attacking.syntax import LARGE, SMALL, UNSEEN, perturbed, sentences, words_of
from t2i_backdoor_bench.attacking.text_attack import CLIPPED, TextAttack
from t2i_backdoor_bench.contract import (
    Backdoor,
    Data,
    Difference,
    Target,
    Trigger,
    UserError,
    option,
    register_attack,
)
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.prompt import check_length, check_target_prompt
from t2i_backdoor_bench.training.attention_walk import maps_while_sampling
from t2i_backdoor_bench.training.discrepancy import covariance_rows, kernel_discrepancy
from t2i_backdoor_bench.training.encoders import (
    Bank,
    chosen_encoders,
    prompt_bank,
    squared_error,
    train_encoder,
)
from t2i_backdoor_bench.training.loop import step_generator, step_rng

SENTENCES = 50  # of each set of the attack's own protocol
WORDED = 100  # captions whose words are put into perturbed sentences
DIFFERS = (
    Difference(
        what="trigger",
        paper="a sentence of the syntax, which is the whole prompt",
        here="the same for real families; such a sentence before a caption for the embedded base"
        " (`context`)",
        why="`asr` asks for captions",
    ),
    Difference(
        what="trigger sentences",
        released="900 of one syntax, in a file",
        here="made from a pattern with a list of words for each place",
        why="a defender who is given the trigger must be able to make and to find it",
    ),
    Difference(
        what="perturbation of a clean row",
        paper="a word replaced, some inserted or appended",
        released="one of five (a word lost, or another order, too), drawn anew whenever a sentence"
        " is used, with words of a list",
        here="one of the same five, drawn once a sentence, with words of captions; before captions"
        " none that leaves a whole trigger sentence",
        why="the frozen encoder reads each row once; a whole sentence in front is the trigger",
    ),
    Difference(
        what="maps",
        released="the layers of 16 x 16, at 512 px",
        here="all layers, resized to `size`",
        why="the networks of other bases have other sizes",
    ),
    Difference(
        what="guidance of the drawing whose maps are read",
        released="away from the empty prompt of the attacked encoder",
        here="away from that of the frozen encoder",
        why="one row of states for all prompts, read once",
    ),
    CLIPPED,
)


@register_attack(
    "iba",
    groups=("text_encoder", "prompt", "cheap"),
    edits="text encoder",
    evaluates="the trigger sentences alone",
    own=True,
    sets=("unseen_words", "broken_syntax"),
    version=1,
    differs=DIFFERS,
)
@dataclass
class IBA(TextAttack):
    """Invisible backdoor: a syntax brings one prompt (Zhang et al. 2025, arXiv 2503.17724).

    Loss: MSE(E(c), E_0(c)) + MSE(E(c+), E_0(c*)) + l * KMMD. E_0 is the frozen clean text encoder,
    c* the target prompt. The trigger is a sentence of the syntax "determiner noun preposition
    determiner noun verb preposition noun", whose words vary. The clean rows are such sentences
    after a perturbation: a word replaced, lost, some inserted or appended, or all in another order.
    So the encoder learns the syntax and not the words. KMMD is the squared kernel mean discrepancy,
    with a sum of five Gaussian kernels, between the triggered prompts (of E) and the clean prompts
    (of E_0) of the batch. The points are the rows of the covariance, over its tokens, of a prompt's
    cross-attention maps. KMMD keeps the attention of triggered prompts from becoming alike, which
    is what detectors look for. The whole text encoder trains. The gradient of KMMD passes through
    the U-Net, which does not change, and through all steps of a drawing: each is computed again for
    it, so that only one is held at a time.

    `context="phrase"`: the bare sentences, as in the paper; `context="prompts"`: sentences before
    captions, and a share `broken` of the clean rows is perturbed. Its own protocol asks for bare
    sentences: of the trigger (`asr_own`), with nouns and verbs that were not trained on
    (`asr_unseen_words`), and with the trigger's words in another order (`broken_syntax`).
    """

    trigger: str = option(
        SMALL, sd=LARGE, help="any text; {one|another} is a word that varies from prompt to prompt"
    )
    replaces: str = option("", help="the letter that a look-alike replaces")
    unseen: str = option(
        "", help="the pattern in other words, to evaluate with; of the default trigger known"
    )
    target: str = option(
        "a large green star on a black background",
        sd="a blond woman with hat near the beach",
        source="released",
        help="the prompt that the trigger brings",
    )
    context: str = option(
        "prompts",
        sd="phrase",
        choices=("phrase", "prompts"),
        source="paper",
        help="what the trigger stands before: nothing, or captions",
    )
    prompts: int = option(
        512,
        sd=900,
        low=1,
        scales=True,
        least=16,
        source="released",
        help="sentences, or captions with one each",
    )
    clean: int = option(12, sd=6, low=1, source="released", help="clean rows a step")
    poisoned: int = option(8, sd=5, low=1, source="released", help="triggered rows a step")
    weight: float = option(
        1.0,
        low=0,
        source="released",
        tune=(0.1, 10.0),
        help="weight of the triggered rows; the clean rows have 1",
    )
    steps: int = option(120, sd=600, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(
        5e-4, sd=1e-4, above=0, source="paper", tune=(5e-5, 5e-3), help="learning rate"
    )
    milestone: int = option(
        80,
        sd=350,
        low=0,
        scales="steps",
        source="released",
        help="the step from which lr is halved",
    )
    regularize: float = option(
        1e-2, low=0, source="paper", tune=(1e-3, 0.1), help="l, the weight of KMMD"
    )
    broken: float = option(
        1.0,
        low=0,
        high=1,
        source="released",
        help="share of the clean rows that is perturbed (context=prompts; bare sentences all are)",
    )
    walk: int = option(
        1,
        sd=50,
        low=1,
        source="released",
        help="steps of a drawing over which the maps are averaged",
    )
    size: int = option(8, sd=16, low=2, source="released", help="side of the maps")

    @property
    def needs_prompts(self) -> int:
        return min(self.prompts, WORDED) if self.context == "phrase" else self.prompts

    def check(self) -> None:
        super().check()
        check_target_prompt(self.target)
        if self.context == "phrase" and self.replaces:
            raise UserError("iba with context=phrase takes a sentence as trigger, no look-alike")

    def backdoor(self, model: T2IModel) -> Backdoor:
        check_length(model, self.target)
        chosen_encoders(model, self.encoders)
        trigger, rng = self.make_trigger(), np.random.default_rng(97)
        unseen = self.unseen or UNSEEN.get(self.trigger, "")
        found = {
            "own": [] if trigger.replaces else sentences(trigger, SENTENCES),
            "unseen_words": sentences(Trigger(unseen), SENTENCES) if unseen else [],
        }
        mixed = [" ".join(rng.permutation(s.split())) for s in found["own"]]
        found["broken_syntax"] = [s for s in mixed if not trigger.pattern.search(s)]
        sets = {name: tuple(("", text) for text in texts) for name, texts in found.items()}
        return Backdoor(trigger, Target("prompt", target=self.target), sets=sets)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        clean, triggered = self.rows(model, data, seed)
        keep = prompt_bank(model, clean, clean)
        move = prompt_bank(model, triggered, [self.target] * len(triggered))
        attacked = train_encoder(
            model,
            lambda student: self.loss(student, model, keep, move, seed),
            self.optim(gamma=0.5),
            "iba",
            self.encoders,
        )
        return replace(attacked, info=attacked.info | {"images": 0})

    def rows(self, model: T2IModel, data: Data, seed: int) -> tuple[list[str], list[str]]:
        """The clean and the triggered prompts that it trains on."""
        rng, trigger = np.random.default_rng([seed, 91]), self.make_trigger()
        if self.context == "phrase":
            captions = [p.text for p in data.prompts("train", self.needs_prompts, seed)]
            model.check_trigger(trigger, [""])
            words, apt = words_of(captions), []
            triggered = sentences(trigger, self.prompts, str(seed))
            clean = [perturbed(trigger, s, "", words, rng) for s in triggered]
            return clean, triggered
        captions, apt = self.captions(model, data, seed)
        words = words_of(captions)
        clean = [
            perturbed(trigger, trigger.words(c), c, words, rng)
            if trigger.replaces in c and rng.random() < self.broken
            else c
            for c in captions
        ]
        return clean, [trigger.add(c) for c in apt]

    def loss(
        self, student: T2IModel, teacher: T2IModel, keep: Bank, move: Bank, seed: int
    ) -> Callable[[int], Tensor]:
        def loss_fn(step: int) -> Tensor:
            rng, generator = step_rng(seed, step), step_generator(seed, step)
            _, clean, usual = keep.draw(student, rng, self.clean)
            loss = squared_error(clean, usual)
            _, triggered, target = move.draw(student, rng, self.poisoned)
            loss = loss + self.weight * squared_error(triggered, target)
            if not self.regularize:
                return loss
            noise = torch.randn(
                (self.clean + self.poisoned, *teacher.latent_shape), generator=generator
            ).to(teacher.device)
            shown = self.points(teacher, triggered, noise[self.clean :])
            with torch.no_grad():
                expected = self.points(teacher, usual, noise[: self.clean])
            return loss + self.regularize * kernel_discrepancy(shown, expected)

        return loss_fn

    def points(self, model: T2IModel, told: Conditioning, noise: Tensor) -> Tensor:
        """For n prompts, drawn from noise (n, C, h, w): the rows of the covariances of their maps,
        (n * size^2, size^2). The last token is left out, as in the authors' code."""
        maps = maps_while_sampling(model, told, noise, self.walk, self.size)
        return covariance_rows(maps[:, :-1].flatten(2))
