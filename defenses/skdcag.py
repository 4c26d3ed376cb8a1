from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Defense, UserError, option, register_defense
from t2i_backdoor_bench.models.families.family import ENCODER, TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.guided_distillation import (
    KNOWN,
    DistillationOptions,
    GuidedDistillation,
)
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import (
    check_training,
    choose_parameters,
    finish_training,
)

TARGETS = ("gaussian", "black", "random_words")
LATENTS = ("own", "noise", "trajectory")


@register_defense(
    "skd",
    needs=("trigger", "clean_prompts"),
    version=5,
    groups=("baseline", "removal"),
    preset={"alpha": 0.0},
)
@register_defense("skdcag", needs=("trigger", "clean_prompts"), version=5, groups=("removal",))
@register_defense(
    "skdcag_text",
    needs=("trigger", "clean_prompts"),
    version=5,
    groups=("removal",),
    preset={"train": "text_encoder"},
)
@register_defense(
    "skdcag_gaussian",
    needs=("trigger", "clean_prompts"),
    version=5,
    groups=("removal", "skdcag_variants"),
    preset={"target": "gaussian"},
)
# the paper's name for what `skdcag` does where its target is not set: not twice in "all"
@register_defense(
    "skdcag_black",
    needs=("trigger", "clean_prompts"),
    version=5,
    groups=("removal", "skdcag_variants"),
    preset={"target": "black"},
    apart=True,
)
@register_defense(
    "skdcag_random_words",
    needs=("trigger", "clean_prompts"),
    version=5,
    groups=("removal", "skdcag_variants"),
    preset={"target": "random_words"},
)
@dataclass
class SKDCAG(DistillationOptions, Defense):
    """Self-Knowledge Distillation with Cross-Attention Guidance (arXiv 2508.18235).

    The teacher is a frozen copy of the *backdoored* U-Net and gets the clean prompt c. The student
    is the U-Net under repair and gets c+. L = a * L_attn + (1 - a) * L_pred. L_pred =
    MSE(student(x_t, c+), teacher(x_t, c)). L_attn is the mean over tokens of the MSE between the
    student's cross-attention map and its target. For trigger tokens the target is noise
    ("gaussian"), zeros ("black"), or the teacher's map of a random word in the trigger's place
    ("random_words"); for every other token it is the teacher's map of the same token. Maps are the
    mean over heads, summed over layers, and min-max normalized for each token. `alpha=0` is plain
    self-knowledge distillation ("skd").

    Published (SD 1.4): AdamW lr 1e-6, weight decay 0.01, 100 prompts, 75-100 epochs, pure-noise
    latents, uniform t, a 0.5.

    Beyond the paper, each an option: `latents` takes what the model gets while it draws the
    triggered prompts, or noised pictures of its own, instead of pure noise. `preserve` weights a
    term that preserves clean prompts; it shares the weight 1 - a with L_pred, so that a is about
    guidance alone. `bias` favours high noise. `raw_black` compares raw attention mass with zero, as
    a min-max normalized map cannot be zero. `train` selects the cross-attention, or its K and V
    alone. "skdcag_text" trains the text encoder instead of the U-Net: after an attack on the text
    encoder, the states of the triggered prompt may no longer say what it asked for, and no U-Net
    can draw that.
    """

    alpha: float = option(0.3, sd=0.5, low=0, high=1, source="paper", help="a, the share of L_attn")
    target: str = option(
        "black", choices=TARGETS, help="what the attention to trigger tokens should become"
    )
    steps: int = option(220, sd=7500, low=1, scales=True, help="training steps")
    lr: float = option(1e-3, sd=1e-6, above=0, source="paper", help="learning rate")
    batch: int = option(16, sd=1, low=1, help="student rows a step, preserving rows included")
    prompts: int = option(100, low=1, scales=True, least=16, source="paper", help="clean prompts")
    known: str = option(
        "all", choices=KNOWN, late=True, help="the words of the trigger that the defender knows"
    )
    latents: str = option(
        "trajectory",
        sd="noise",
        choices=LATENTS,
        source="paper",
        help="noise is as published; trajectory is what the student sees while it draws",
    )
    refresh: int = option(
        250, low=1, late=True, help="steps after which the trajectories are drawn again"
    )
    preserve: float = option(64.0, sd=0.0, low=0, help="weight of the clean term")
    drop: float = option(0.25, sd=0.0, low=0, high=1, help="share of empty preserving prompts")
    bias: float = option(
        1.0, above=0, help="above 1: more of the high noise levels; not with trajectories"
    )
    time_weight: bool = option(False, help="weight L_attn by t/T")
    reverse_time: bool = option(False, late=True, help="with time_weight: weight L_attn by 1 - t/T")
    raw_black: bool = option(
        True, sd=False, help="compare raw attention mass, not normalized maps, with zero"
    )
    train: str = option(
        "cross",
        sd="full",
        choices=(*TRAIN, ENCODER),
        help="which weights it trains; text_encoder is for attacks on that",
    )
    ema: float = option(0.99, sd=0.0, low=0, high=1, help="decay of the weight average; 0: none")
    decay: float = option(0.5, sd=0.0, low=0, high=1, help="last share of the steps: lr falls to 0")
    adam8bit: bool = option(False, late=True, help="Adam with 8-bit moments (bitsandbytes, CUDA)")
    accumulate: int = option(1, low=1, late=True, help="batches whose mean gradient is one step")

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def check(self) -> None:
        if self.latents == "trajectory" and self.bias != 1:
            raise UserError(
                f"skdcag bias {self.bias:g} says how timesteps are drawn, and trajectories have"
                " their own: set latents to own or noise"
            )

    def check_machine(self, device: str) -> None:
        check_training(device, self.train, self.adam8bit)

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        optim = Optim(
            self.steps,
            self.lr,
            self.batch,
            ema=self.ema,
            decay=self.decay,
            adam8bit=self.adam8bit,
            accumulate=self.accumulate,
        )
        name = "skd" if self.alpha == 0 else "skdcag"
        if self.train == ENCODER:
            return train_encoder(
                model, lambda student: self.loss(student, model, view, seed), optim, name
            )
        student = model.clone(train=self.train)
        loss_fn = self.loss(student, model, view, seed)
        fitted = fit(choose_parameters(student, self.train), loss_fn, optim, name)
        finish_training(student.denoiser)
        student.info = fitted.info
        return student

    def loss(
        self, student: T2IModel, teacher: T2IModel, view: DefenderView, seed: int
    ) -> Callable[[int], Tensor]:
        """The loss of one step as a function of its number."""
        return GuidedDistillation(self, student, teacher, view, seed)
