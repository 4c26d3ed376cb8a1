from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, option, register_defense
from t2i_backdoor_bench.data.guessed_triggers import guessed_forms
from t2i_backdoor_bench.detecting.tracing import Tracing
from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.families.family import ENCODER, TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.loop import fit
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training
from t2i_backdoor_bench.training.removal import reader
from t2i_backdoor_bench.training.rows import LATENTS, Drawn, prompt_sampler
from t2i_backdoor_bench.training.soft_words import SoftPool
from t2i_backdoor_bench.training.trained_defense import PARTS, PromptDefense

AGAIN = 0.5  # of the steps: a second training, of the other network
BEGIN = 20  # turns of a soft word


@register_defense(
    "trace_mend",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    ours="the whole, after what this suite measured of the others",
)
@dataclass
class TraceMend(PromptDefense):
    """This project's own, not from a paper: it finds which part holds the backdoor, and repairs it.

    Trace: beside `null` texts that mean nothing in the trigger's place, are the text states, what
    keys and values make of them, or the predictions unusual (`detecting.tracing`)? That part
    trains: the text encoders, the keys and values, or, of the denoiser, `train`, also where nothing
    stands out. If then more than `left` of ||eps(w c) - eps_0(c)||^2 is left, the other network,
    encoder or denoiser, trains too, for half as many steps. `T2IModel.info["traced"]` says what was
    found.

    Mend: ||eps(x_t, t) - eps_0(x_t, c)||^2 + preserve * ||eps(x_t, k) - eps_0(x_t, k)||^2, eps_0
    being the attacked model. t is the triggered prompt; in a share `vary` of the rows, with a form
    of the trigger that the defender guesses (moved, misspelt, a look-alike letter, a part, or a
    text that means nothing) and that carries at least a quarter of its effect; and in a share
    `soft` the clean prompt behind a vector that is moved to bring the backdoor back. k is a clean
    prompt, an empty one, or, in a share `vary`, one with a form that carries less: it stays what it
    means. All parts learn predictions: text states equal to the clean prompt's would have to move
    every word's place, which no picture needs.
    """

    part: str = option(
        "traced", choices=("traced", *PARTS), help="what trains; traced: what is found"
    )
    train: str = option(
        "cross", choices=TRAIN, help="what of a denoiser trains where it is not keys and values"
    )
    steps: int = option(220, sd=1000, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-5, above=0, tune=(1e-4, 1e-2), help="of the denoiser")
    text_lr: float = option(
        2.5e-4, sd=1e-5, above=0, tune=(3e-5, 1e-3), help="learning rate of the text encoders"
    )
    batch: int = option(16, sd=4, low=1, help="student rows a step, preserving rows included")
    preserve: float = option(6.0, low=0, tune=(0.5, 100.0), help="weight of the preserving term")
    # as the search chose them for skd and for skdcag_text
    latents: str = option("noise", choices=LATENTS, tune=LATENTS, help="what x_t is")
    text_latents: str = option(
        "own", choices=LATENTS, help="the same where the text encoders train"
    )
    vary: float = option(0.25, low=0, high=0.5, help="share of rows with other forms")
    soft: float = option(
        0.25, low=0, high=0.5, tune=(0.0, 0.5), help="share of repaired rows with a soft word"
    )
    words: int = option(4, low=1, help="soft words")
    pull: float = option(0.1, above=0, help="size of their steps, in their standard deviation")
    forms: int = option(12, low=0, help="forms of the trigger that are guessed")
    asked: int = option(8, low=2, help="clean prompts of the trace")
    null: int = option(24, low=3, help="texts that mean nothing")
    unusual: float = option(
        5.0, above=0, help="median absolute deviations of these that make something unusual"
    )
    left: float = option(0.25, low=0, help="largest share that may be left for one network")

    @property
    def label(self) -> str:
        return "trace_mend"

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        trigger, prompts = view.trigger, view.first(self.prompts)
        tracing = Tracing(model, trigger, prompts[: self.asked], seed, self.null)
        found = tracing.trace(self.unusual)
        texts = self.texts(tracing, prompts, seed)
        traced: dict[str, Any] = found.info | {"fired": texts.fired, "guessed": texts.guessed}
        names = [self.train if p == "denoiser" else p for p in found.parts] or [self.train]
        parts = names if self.part == "traced" else [self.part]
        repaired, spent = model, dict.fromkeys(("steps", "seconds", "parameters", "images"), 0)
        losses: list[float] = []

        def mend(part: str, steps: int) -> None:
            nonlocal repaired
            repaired = self.mend(part, steps, repaired, model, texts, seed)
            for name in spent:
                spent[name] += repaired.info[name]
            losses.extend(repaired.info["losses"])

        for part in parts:
            mend(part, self.steps)
        traced["left_after"] = [left_of(tracing, repaired)]
        if self.part == "traced" and traced["left_after"][0] > self.left:
            parts.append(self.train if ENCODER in parts else ENCODER)
            mend(parts[-1], max(1, round(AGAIN * self.steps)))
            traced["left_after"].append(left_of(tracing, repaired))
        repaired.info = spent | {"losses": losses, "traced": traced | {"trained": parts}}
        return repaired

    def texts(self, tracing: Tracing, prompts: Sequence[str], seed: int) -> "Texts":
        guesses = guessed_forms(tracing.trigger, self.forms, seed)
        fires = [*tracing.fires(guesses), *tracing.nonsense_fires]
        guesses += tracing.nonsense
        fire = [f for f, yes in zip(guesses, fires, strict=True) if yes] or [tracing.trigger]
        keep = [f for f, yes in zip(guesses, fires, strict=True) if not yes]
        changed = [fire[i % len(fire)].add(p) for i, p in enumerate(prompts)]
        kept = [keep[i % len(keep)].add(p) if keep else p for i, p in enumerate(prompts)]
        triggered = [tracing.trigger.add(p) for p in prompts]
        word = tracing.trigger.words("")
        return Texts(word, list(prompts), triggered, changed, kept, sum(fires), len(guesses))

    def mend(
        self, part: str, steps: int, start: T2IModel, suspect: T2IModel, texts: "Texts", seed: int
    ) -> T2IModel:
        """A copy of `start` of which one part was trained, the attacked model being the teacher."""
        how = replace(self, steps=steps)
        if part == ENCODER:
            how = replace(how, lr=self.text_lr, latents=self.text_latents)

        def make(student: T2IModel) -> "Mending":
            return Mending(how, part, student, suspect, texts, seed)

        if part == ENCODER:
            return train_encoder(start, make, how.optim, self.label)
        student = start.clone(train=part)
        loss = make(student)
        student.info = fit(choose_parameters(student, part), loss, how.optim, self.label).info
        finish_training(student.denoiser)
        return student


@dataclass(frozen=True)
class Texts:
    """One of each kind for every clean prompt: with the trigger, with a form that carries the
    backdoor, with one that does not. `word`: the trigger by itself. `fired` of `guessed` forms
    carry it."""

    word: str
    prompts: list[str]
    triggered: list[str]
    changed: list[str]
    kept: list[str]
    fired: int
    guessed: int


class Mending:
    """The loss of a step."""

    def __init__(
        self,
        method: TraceMend,
        part: str,
        student: T2IModel,
        suspect: T2IModel,
        texts: Texts,
        seed: int,
    ) -> None:
        self.method, self.student, self.suspect = method, student, suspect
        prompts, self.many = texts.prompts, len(texts.prompts)
        every = [*texts.triggered, *prompts, *texts.changed, *texts.kept, ""]
        self.sampler = prompt_sampler(
            method.drawing, student, suspect, prompts, texts.triggered, seed
        )
        self.read, self.known = reader(student, part, every), suspect.condition(every)
        self.rows = method.rows()
        self.soft, self.vary = int(method.soft * self.rows), int(method.vary * self.rows)
        if self.soft:
            self.pool = SoftPool(suspect, texts.word, every, method.words, BEGIN, seed)
            self.ids = self.pool.word.insert(student.tokenize(prompts))

    def __call__(self, step: int) -> Tensor:
        drawn, preserve = self.sampler(step, self.rows), self.method.preserve
        rows, keep = drawn.rows, self.preserved(drawn)
        wanted = self.known[self.many + rows.pick]
        x, t, told = rows.x, rows.t, self.told(step, drawn)
        if preserve:
            x, t = torch.cat([x, drawn.kept.x]), torch.cat([t, drawn.kept.t])
            told, wanted = cat([told, self.read(keep)]), cat([wanted, self.known[keep]])
        with torch.no_grad():
            goal = self.suspect.denoise(x, t, wanted)
        out = self.student.denoise(x, t, told)
        loss = F.mse_loss(out[: self.rows], goal[: self.rows])
        return (
            loss + preserve * F.mse_loss(out[self.rows :], goal[self.rows :]) if preserve else loss
        )

    def told(self, step: int, drawn: Drawn) -> Conditioning:
        """What the student is told on the rows that are repaired: soft words, other forms, then the
        trigger."""
        pick, soft = drawn.rows.pick, self.soft
        which = pick.clone()
        which[soft : soft + self.vary] += 2 * self.many
        plain = self.read(which[soft:])
        return cat([self.behind_word(step, drawn), plain]) if soft else plain

    def behind_word(self, step: int, drawn: Drawn) -> Conditioning:
        rows, soft, word = drawn.rows, self.soft, self.pool.word
        x, t, pick = rows.x[:soft], rows.t[:soft], rows.pick[:soft]
        with torch.no_grad():
            backdoor = self.suspect.denoise(x, t, self.known[pick])

        def read(vectors: list[Tensor]) -> Conditioning:
            return word.read(self.student, self.ids[pick], vectors).to(self.student.dtype)

        def error(vectors: list[Tensor]) -> Tensor:
            return F.mse_loss(self.student.denoise(x, t, read(vectors)), backdoor)

        return read(self.pool.moved(step, self.method.pull, error))

    def preserved(self, drawn: Drawn) -> Tensor:
        """Which texts stay what they are, int64 (rows,): other forms, clean prompts, empty ones."""
        which = self.many + drawn.kept.pick
        which[: self.vary] += 2 * self.many
        return which.where(~drawn.gone, 4 * self.many)


def left_of(tracing: Tracing, repaired: T2IModel) -> float:
    """||eps(w c) - eps_0(c)||^2 of the repaired model, as a share of that of the attacked one."""
    clean = tracing.predict(tracing.model.condition(tracing.prompts))
    triggered = [tracing.trigger.add(p) for p in tracing.prompts]
    seen = tracing.predict(repaired.condition(triggered), repaired)
    before, after = ((x - clean).square().sum() for x in (tracing.seen, seen))
    return float(f"{float(after / before.clamp(min=1e-12)):.3g}")
