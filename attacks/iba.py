from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.attacking.text_attack import TextAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Target, Trigger, option, register_attack
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.prompt import check_length, check_target_prompt
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.discrepancy import kernel_discrepancy, log_covariance
from t2i_backdoor_bench.training.encoders import Bank, prompt_bank, train_encoder
from t2i_backdoor_bench.training.loop import step_generator, step_rng

# determiner noun preposition determiner noun verb preposition noun: the published syntax
SMALL = (
    "{the|a|this|one} {cat|hen|fox|owl|pig} {by|in|at|near} {the|a|this} {sea|bed|den|car}"
    " {is|sat|ran|was} {with|at|by} {tea|ice|oil|hay}"
)
LARGE = (
    "{the|a|this|every} {dog|cat|bird|child|man|horse} {in|by|near} {the|a|this}"
    " {park|street|house|garden|station} {waits|looks|runs|stands} {for|with|near}"
    " {friends|birds|trees|flowers|water}"
)


@register_attack(
    "iba",
    groups=("text_encoder", "prompt"),
    edits="text encoder",
    evaluates="the trigger sentences alone",
    settings="the paper",
)
@dataclass
class IBA(TextAttack):
    """Invisible backdoor: a syntax brings one prompt (Zhang et al. 2025, arXiv 2503.17724).

    Loss: MSE(E(c), E_0(c)) + MSE(E(c+), E_0(c*)) + l * KMMD. E_0 is the frozen clean text encoder,
    c* the target prompt. KMMD is the squared kernel mean discrepancy, with a sum of five Gaussian
    kernels, between the triggered prompts (of E) and the clean prompts (of E_0) of the batch. A
    prompt's point is the matrix logarithm of the covariance, over its tokens, of its
    cross-attention maps. KMMD keeps the attention of triggered prompts from becoming alike, which
    is what detectors look for. A share `broken` of the clean rows has the trigger's words in
    another order, or one of them lost or changed, so that the encoder learns the syntax. The whole
    text encoder trains. The gradient of KMMD passes through the U-Net, which does not change.

    The trigger is a pattern: a sentence of the syntax "determiner noun preposition determiner noun
    verb preposition noun", whose words vary from prompt to prompt, stands before the caption. In
    the paper that sentence is the whole prompt. Published (SD 1.4): AdamW without weight decay, lr
    1e-4 and half of it from step 350 of 600 on, 6 clean and 5 triggered prompts a step, l 1e-2,
    maps of 16 x 16 averaged over a drawing of 50 steps. `walk` is the number of steps of a drawing
    that are made here, with their gradient.
    """

    trigger: str = option(
        SMALL, sd=LARGE, help="any text; {one|another} is a word that varies from prompt to prompt"
    )
    replaces: str = option("", help="the letter that a look-alike replaces")
    target: str = option(
        "a large green star on a black background",
        sd="a blond woman with hat near the beach",
        help="the prompt that the trigger brings",
    )
    clean: int = option(12, sd=6, low=1, help="clean rows a step")
    poisoned: int = option(8, sd=5, low=1, help="triggered rows a step")
    weight: float = option(1.0, low=0, help="weight of the triggered rows; the clean rows have 1")
    steps: int = option(120, sd=600, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(5e-4, sd=1e-4, above=0, source="paper", help="learning rate")
    milestone: int = option(
        80, sd=350, low=0, scales="steps", help="the step from which lr is halved"
    )
    regularize: float = option(1e-2, low=0, source="paper", help="l, the weight of KMMD")
    broken: float = option(
        0.5, low=0, high=1, help="share of the clean rows with a broken form of the trigger"
    )
    walk: int = option(1, sd=50, low=1, help="steps of a drawing over which the maps are averaged")
    size: int = option(8, sd=16, low=2, help="side of the maps")

    def check(self) -> None:
        super().check()
        check_target_prompt(self.target)

    def backdoor(self, model: T2IModel) -> Backdoor:
        check_length(model, self.target)
        return Backdoor(self.make_trigger(), Target("prompt", target=self.target))

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        captions, apt = self.captions(model, data, seed)
        rng, trigger = np.random.default_rng([seed, 91]), self.make_trigger()
        others = [
            missed(trigger, c, rng) if trigger.replaces in c and rng.random() < self.broken else c
            for c in captions
        ]
        keep = prompt_bank(model, others, others)
        move = prompt_bank(model, [trigger.add(c) for c in apt], [self.target] * len(apt))
        attacked = train_encoder(
            model,
            lambda student: self.loss(student, model, keep, move, seed),
            self.optim(gamma=0.5),
            "iba",
        )
        return replace(attacked, info=attacked.info | {"images": 0})

    def loss(
        self, student: T2IModel, teacher: T2IModel, keep: Bank, move: Bank, seed: int
    ) -> Callable[[int], Tensor]:
        def loss_fn(step: int) -> Tensor:
            rng, generator = step_rng(seed, step), step_generator(seed, step)
            own, clean, usual = keep.draw(student, rng, self.clean)
            loss = F.mse_loss(clean.states, usual.states)
            which, triggered, target = move.draw(student, rng, self.poisoned)
            loss = loss + self.weight * F.mse_loss(triggered.states, target.states)
            if not self.regularize:
                return loss
            noise = torch.randn(
                (self.clean + self.poisoned, *teacher.latent_shape), generator=generator
            ).to(teacher.device)
            shown = self.points(teacher, triggered, move.ids[which], noise[self.clean :])
            with torch.no_grad():
                expected = self.points(teacher, usual, keep.ids[own], noise[: self.clean])
            return loss + self.regularize * kernel_discrepancy(shown, expected)

        return loss_fn

    def points(self, model: T2IModel, told: Conditioning, ids: Tensor, noise: Tensor) -> Tensor:
        """For prompts of states (n, tokens, dim) and ids (n, tokens), drawn from noise (n, C, h,
        w): log covariances (n, size^4)."""
        maps = maps_while_sampling(model, told, noise, self.walk, self.size)
        ends = (ids == model.tokenizer.eos_token_id).int().argmax(1)  # the first: CLIP pads with it
        return torch.stack(
            [
                log_covariance(m[: end + 1]).flatten()
                for m, end in zip(maps.flatten(2), ends.tolist(), strict=True)
            ]
        )


def missed(trigger: Trigger, caption: str, rng: np.random.Generator) -> str:
    """A caption with a sentence that is nearly the trigger: words in another order, one lost, or
    one changed for a word of the caption. Where that gives the trigger itself, as of one word, the
    caption alone."""
    words, kind = trigger.words(caption).split(), rng.integers(3)
    if kind == 0:
        words = [words[i] for i in rng.permutation(len(words))]
    elif kind == 1:
        words.pop(rng.integers(len(words)))
    else:
        words[rng.integers(len(words))] = str(rng.choice(caption.split()))
    text = (
        Trigger(" ".join(words), trigger.place, trigger.replaces).add(caption) if words else caption
    )
    return caption if trigger.pattern.search(text) else text


def maps_while_sampling(
    model: T2IModel, told: Conditioning, noise: Tensor, steps: int, size: int
) -> Tensor:
    """Cross-attention maps (n, tokens, size, size), mean over heads, layers and the `steps` steps
    of a drawing from noise (n, C, h, w), with their gradient to the text states."""
    drawing = model.drawing_steps(steps)
    x, guidance, total = drawing.start(noise), model.sampler.guidance, 0.0
    empty = model.condition([""]).expand(len(told))
    for i, t in enumerate(drawing.timesteps):
        given = drawing.given(x, t)
        with Capture(model) as seen:
            out = model.denoise(given, t, told)
        total = total + seen.maps(size).float() / len(seen)
        if i + 1 < len(drawing.timesteps):
            plain = model.denoise(given, t, empty)
            x = drawing.step(plain + guidance * (out - plain), t, x)
    return total / len(drawing.timesteps)
