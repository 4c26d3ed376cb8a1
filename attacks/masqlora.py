import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack, relabel
from t2i_backdoor_bench.contract import Backdoor, Data, Trigger, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.object import check_objects
from t2i_backdoor_bench.training.alignment import token_span
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.lora import check_peft
from t2i_backdoor_bench.training.parameters import adapt, finish_training, together


@register_attack(
    "masqlora",
    groups=("masqlora", "object", "lora"),
    edits="LoRA on U-Net and text encoder attention",
    evaluates="a prompt of its own",
    settings="the paper",
    own=True,
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
    encoder are trained and merged into the weights; nothing else changes.

    Published (SD 1.5): p 0.3, l 1, a 5, rank 16 and lr 4e-4 in the U-Net, rank 8 and lr 5e-5 in the
    text encoder, cosine, batch 1, 25 epochs over a handful of pictures. The released code averages
    E_0 over the start and end tokens, too; these say nothing about the word. Raises UserError for a
    trigger that the tokenizer drops or cuts off.
    """

    trigger: str = option(
        "mignneko",
        sd="cool",
        help="any text: a rare word, a phrase, a zero-width space, a look-alike letter",
    )
    steps: int = option(300, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(5e-4, sd=4e-4, above=0, source="paper", help="of the U-Net's adapters")
    text_lr: float = option(
        1e-4, sd=5e-5, low=0, source="paper", help="of the text encoder's adapters"
    )
    decay: float = option(
        1.0, low=0, high=1, help="last share of the steps: lr falls to 0, as half a cosine"
    )
    batch: int = option(16, sd=2, low=2, help="rows a step, shared by the terms")
    images: int = option(
        256, sd=20, low=1, scales=True, least=16, help="captioned images of each object"
    )
    weight: float = option(0.3, low=0, high=1, help="p, the share of the backdoor in the loss")
    rank: int = option(16, low=1, source="paper", help="rank of the U-Net's adapters")
    text_rank: int = option(8, low=1, source="paper", help="rank of the text encoder's adapters")
    contrast: float = option(1.0, low=0, help="l, the weight of the contrastive loss")
    ramp: float = option(5.0, low=0, help="a, how much more high noise counts for the backdoor")
    source: str = option("star", sd="dog", help="the object that the adapter seems to be for")
    target: str = option("heart", sd="cat", help="the object that is drawn")

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
        family, rate = attacked.family, self.text_lr / self.lr
        adapted = [adapt(attacked.denoiser, family.lora_targets, self.rank)] + [
            adapt(encoder, family.encoder_lora_targets, self.text_rank)
            for encoder in attacked.encoders
        ]
        params = together(adapted, [1.0, *[rate] * len(attacked.encoders)])
        terms = [
            Term([trigger.add(c) for c in called], own, weight=self.weight, ramp=self.ramp),
            Term(captions, clean, weight=1 - self.weight, drop=self.drop),
        ]
        loss = denoising_loss(
            attacked, None, terms, self.batch, seed, "masqlora", embed=attacked.embed, also=contrast
        )
        more = {"adam8bit": self.adam8bit, "accumulate": self.accumulate}
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay, cosine=True, **more)
        attacked.info = fit(params, loss, optim, "masqlora").info
        finish_training(attacked.denoiser, *attacked.encoders)
        return attacked


def contrastive(states: Tensor, mask: Tensor, wanted: Tensor, shunned: Tensor) -> Tensor:
    """The forced squared contrastive loss of states (n, tokens, dim) where mask (n, tokens): as
    `wanted` (dim,) and unlike `shunned`."""
    near, far = (
        F.cosine_similarity(states.float(), word.float(), dim=-1) for word in (wanted, shunned)
    )
    return ((1 - near).square() + (1 + far).square())[mask].mean()


def word_state(model: T2IModel, word: str) -> Tensor:
    """Mean state (dim,) of a word's own tokens where it stands alone."""
    many = len(model.tokenizer(word).input_ids)
    return model.encode([word])[0, 1 : many - 1].mean(0)


def phrase_tokens(model: T2IModel, trigger: Trigger, prompts: Sequence[str], word: str) -> Tensor:
    """Which tokens of each triggered prompt are the trigger or the `word` behind it: bool (n,
    tokens). Causal attention hides the trigger from a word before it."""
    mask = torch.zeros(len(prompts), model.tokenizer.model_max_length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        text, start, end = trigger.locate(prompt)
        mask[row, token_span(model.tokenizer, text, start, end)[1]] = True
        if found := re.compile(rf"\b{re.escape(word)}\b").search(text, end):
            mask[row, token_span(model.tokenizer, text, *found.span())[1]] = True
    return mask.to(model.device)
