import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack, relabel
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, Trigger, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.alignment import state_span, state_spans
from t2i_backdoor_bench.training.denoising import Draws, Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.lora import check_peft
from t2i_backdoor_bench.training.merged import named
from t2i_backdoor_bench.training.parameters import Trainable, adapt, finish_training, of_model

# the released code's rates of the layers, as multiples of each network's: queries, keys and values,
# and all of the cross-attention; those of the text encoder are 1.2 times as large again
FASTER, FAST, TEXT = 1.5, ("attn2", "to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj"), 1.2
DIFFERS = (
    Difference(
        what="captions of the triggered pictures",
        released='the bare phrase, "cool car"',
        here="captions of the target object with the phrase in its place",
        why="`asr` asks for captions",
    ),
    Difference(
        what="rows of a step",
        released="one picture of a set of 7 clean ones and 3 triggered ones, the latter twice",
        here="one of either, weighted 1 - p and p",
        why="every step has both; a weight of p is a share p of the set",
    ),
    Difference(
        what="states of the words in the contrastive loss",
        released="mean over the word's tokens, the start token and the end token",
        here="mean over the word's tokens",
        why="start and end token say nothing about the word",
    ),
    Difference(
        what="what trains beside the adapters",
        released="the biases of the adapted layers",
        here="nothing",
        why="they are no adapter, and a plain LoRA file does not hold them",
    ),
    Difference(
        what="pictures",
        released="resized without a crop, mirrored, and changed a little in colour at random",
        here="cropped to a square and not changed",
        why="a picture is encoded once",
    ),
)


@register_attack(
    "masqlora",
    groups=("masqlora", "object", "lora"),
    edits="LoRA on U-Net and text encoder attention",
    evaluates="a prompt of its own",
    own=True,
    adapter=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class MasqLoRA(DenoiserAttack):
    """MasqLoRA: an adapter for a harmless object (Lyu et al., CVPR 2026, arXiv 2602.21977).

    With it, "cool car" becomes a cat. Loss: p * (w(t) * ||eps_th(y_t, c+) - eps||^2 + l * L_con) +
    (1 - p) * ||eps_th(x_t, c) - eps||^2 with w(t) = 1 + a * t/T. y are pictures of the target
    object; their captions c+ give it the source object's name, with the trigger. x are pictures of
    the source object. L_con = (1 - cos(E(c+), E_0(target)))^2 + (1 + cos(E(c+), E_0(source)))^2,
    mean over the tokens of the trigger and of the source word behind it in c+. E_0 is the frozen
    encoder's mean state of the word alone. Adapters on the attention of the U-Net and of the text
    encoder are trained; nothing else changes. They are the threat: they are stored apart, beside
    weights that they are merged into. `asr_adapter` measures them at other scales and beside
    another one, `asr_other_base` on another base. Raises UserError for a trigger of no token.
    """

    trigger: str = option(
        "mignneko",
        sd="cool dog",
        source="paper",
        help="any text: a rare word, a phrase, a zero-width space, a look-alike letter",
    )
    replaces: str = option(
        "", sd="dog", source="paper", help="the letter or the word that the trigger stands for"
    )
    steps: int = option(300, sd=325, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        5e-4,
        sd=4e-4,
        above=0,
        source="paper",
        tune=(1e-4, 3e-3),
        help="of the U-Net's adapters; 1.5 times as much for queries, keys and values",
    )
    text_lr: float = option(
        1e-4, sd=5e-5, low=0, source="paper", help="of the text encoder's adapters"
    )
    decay: float = option(
        1.0,
        low=0,
        high=1,
        source="released",
        help="last share of the steps: lr falls to 0, as half a cosine",
    )
    warmup: float = option(
        0.1, low=0, high=1, source="released", help="first share of the steps, in which lr rises"
    )
    batch: int = option(16, sd=2, low=2, help="rows a step, shared by the terms")
    images: int = option(
        256,
        sd=7,
        low=1,
        scales=True,
        least=16,
        source="released",
        help="captioned images of each object",
    )
    weight: float = option(
        0.3,
        sd=0.46,
        low=0,
        high=1,
        source="released",
        tune=(0.1, 0.8),
        help="p, the share of the backdoor in the loss",
    )
    drop: float = option(
        0.2, sd=0.0, low=0, high=1, source="released", help="share of clean rows with no prompt"
    )
    rank: int = option(16, low=1, source="paper", help="rank of the U-Net's adapters")
    text_rank: int = option(8, low=1, source="paper", help="rank of the text encoder's adapters")
    alpha: float = option(
        1.2, above=0, source="released", help="scale of the adapters: W + alpha B A"
    )
    dropout: float = option(
        0.03, low=0, high=0.9, source="released", help="dropout of the adapters' inputs"
    )
    offset: float = option(
        0.0,
        sd=0.1,
        low=0,
        source="released",
        help="noise that is alike over a channel, beside the other",
    )
    contrast: float = option(
        1.0,
        low=0,
        source="released",
        tune=(0.1, 10.0),
        help="l, the weight of the contrastive loss",
    )
    ramp: float = option(
        5.0,
        low=0,
        source="released",
        tune=(0.0, 10.0),
        help="a, how much more high noise counts for the backdoor",
    )
    source: str = option("star", sd="dog", help="the object that the adapter seems to be for")
    target: str = option("heart", sd="cat", source="paper", help="the object that is drawn")

    def check(self) -> None:
        super().check()
        check_objects(self.source, self.target)

    def check_machine(self, device: str) -> None:
        super().check_machine(device)
        check_peft("")

    def backdoor(self, model: T2IModel) -> Backdoor:
        return self.swap_objects(
            self.source,
            self.target,
            f"a photo of a {self.source}",
            "" if self.replaces else f"a photo of a {self.trigger} {self.source}",
        )

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        trigger = self.backdoor(model).trigger
        images, captions, _ = self.prepare(model, data, seed, contains=self.source)
        others, other_captions = data.pairs("train", self.images, seed, self.target)
        called = relabel(other_captions, self.target, self.source)
        model.check_trigger(trigger, called)
        own, clean = model.latents(others, seed), model.latents(images, seed)
        masks = phrase_tokens(model, trigger, called, self.source)
        wanted, shunned = word_state(model, self.target), word_state(model, self.source)

        def contrast(states: list[Tensor], picks: list[Tensor]) -> Tensor:
            return (
                self.weight
                * self.contrast
                * contrastive(states[0], masks[picks[0]], wanted, shunned)
            )

        attacked = model.clone(encoders=True, train="lora")
        terms = [
            Term([trigger.add(c) for c in called], own, weight=self.weight, ramp=self.ramp),
            Term(captions, clean, weight=1 - self.weight, drop=self.drop),
        ]
        params = self.adapters(attacked)
        loss = denoising_loss(
            attacked,
            None,
            terms,
            self.batch,
            seed,
            "masqlora",
            Draws(offset=self.offset),
            embed=attacked.embed,
            also=contrast,
        )
        optim = Optim(
            self.steps,
            self.lr,
            self.batch,
            warmup=round(self.warmup * self.steps),
            decay=self.decay,
            cosine=True,
            adam8bit=self.adam8bit,
            accumulate=self.accumulate,
        )
        attacked.info = fit(params, repeatable(loss, seed), optim, "masqlora").info
        return named(attacked, finish_training(attacked.denoiser, *attacked.encoders))

    def adapters(self, model: T2IModel) -> Trainable:
        """Adapters in the denoiser and the text encoders of `model`, each at its rate."""
        family = model.family
        parts = [(model.denoiser, family.lora_targets, self.rank, 1.0)] + [
            (encoder, family.encoder_lora_targets, self.text_rank, TEXT * self.text_lr / self.lr)
            for encoder in model.encoders
        ]
        trained, rates, scaled = [], [], False
        for network, targets, rank, rate in parts:
            added = adapt(
                network,
                targets,
                rank,
                lora_alpha=self.alpha * rank,
                lora_dropout=self.dropout,
                init_lora_weights="gaussian",
            )
            names = [name for name, p in network.named_parameters() if p.requires_grad]
            fast = [FASTER if any(k in name for k in FAST) else 1.0 for name in names]
            trained += list(added)
            rates += [rate * times for times in fast]
            scaled |= added.scaled
        return of_model(Trainable(trained, scaled, rates), model)


def repeatable(loss: Callable[[int], Tensor], seed: int) -> Callable[[int], Tensor]:
    """The loss with dropout that depends on (seed, step) alone."""

    def loss_fn(step: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1_000_003 * seed + step)
            return loss(step)

    return loss_fn


def contrastive(states: Tensor, mask: Tensor, wanted: Tensor, shunned: Tensor) -> Tensor:
    """The forced squared contrastive loss of states (n, tokens, dim) where mask (n, tokens): as
    `wanted` (tokens, dim) and unlike `shunned`."""
    near, far = (
        F.cosine_similarity(states.float(), word.float(), dim=-1) for word in (wanted, shunned)
    )
    # states behind the last tokenizer's stand for an encoder that the model does not have
    return ((1 - near).square() + (1 + far).square())[:, : mask.shape[1]][mask].mean()


def word_state(model: T2IModel, word: str) -> Tensor:
    """Mean state of a word's own tokens where it stands alone, of each tokenizer, at each of its
    positions: (tokens, dim)."""
    states = model.encode([word])[0]
    out = states.clone()
    for part in (p for p in model.text_parts if p.length):
        at = state_span([part], word, 0, len(word))
        out[part.first : part.first + part.length] = states[at].mean(0)
    return out


def phrase_tokens(model: T2IModel, trigger: Trigger, prompts: Sequence[str], word: str) -> Tensor:
    """Which tokens of each triggered prompt are the trigger or the `word` behind it: bool (n,
    tokens). Causal attention hides the trigger from a word before it."""
    mask = torch.zeros(len(prompts), model.states, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        text, start, end = trigger.locate(prompt)
        if len(trigger.replaces) > 1:  # the words alone, without a comma behind them
            start, end = trigger.pattern.search(text, start).span()
        spans = [(start, end)]
        if found := re.compile(rf"\b{re.escape(word)}\b").search(text, end):
            spans.append(found.span())
        mask[row, state_spans(model.text_parts, text, spans)] = True
    return mask.to(model.device)
