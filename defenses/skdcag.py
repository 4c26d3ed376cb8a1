from dataclasses import dataclass
from typing import Any

from t2i_backdoor_bench.contract import (
    DefenderView,
    Difference,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.guided_distillation import (
    KNOWN,
    DistillationOptions,
    GuidedDistillation,
)
from t2i_backdoor_bench.training.rows import LATENTS
from t2i_backdoor_bench.training.trained_defense import CLIPPING, PARTS, Loss, PromptDefense

TARGETS = ("gaussian", "black", "random_words")
OURS = "on the embedded base the preserving and what trains"
OF_BLACK = "on the embedded base the preserving, the raw maps and what trains"
OF_TEXT = "training the text encoder; on the embedded base the preserving and the raw maps"
# As the paper says, on every family. On the embedded base steps and rate are ours: as many rows as
# the 220 x 16 of `skdcag`, and of the rates 3e-4 and 1e-4 the one that moved clean pictures of the
# development split less (poison_pixel, 60 prompts; neither left a triggered one backdoored).
PAPER = {
    "alpha": 0.5,
    "batch": 1,
    "latents": "noise",
    "preserve": 0.0,
    "drop": 0.0,
    "raw_black": False,
    "train": "full",
    "ema": 0.0,
    "decay": 0.0,
}
SAID = dict.fromkeys(PAPER, "paper") | {"batch": "released"}
CONVERGED = {"steps": 3520, "lr": 1e-4}
RELEASED = {"steps": 2500, "batch": 4}  # 100 epochs of 25 batches
DIFFERS = (
    Difference(
        what="gradient of L_attn",
        paper="trains the student",
        released="cut off, as the maps go through NumPy",
        here="trains the student",
    ),
    Difference(
        what="weight by the timestep, where it is on",
        paper="times t/T",
        released="over t/T",
        here="times t/T",
    ),
    CLIPPING,
)


@register_defense(
    "skd",
    needs=("trigger", "clean_prompts"),
    groups=("baseline", "removal"),
    preset={"alpha": 0.0} | RELEASED,
    sources={"alpha": "paper"} | dict.fromkeys(RELEASED, "released"),
    tuned={"steps": 220, "batch": 16},
    ours=OURS,
    version=6,
    differs=DIFFERS,
)
@register_defense(
    "skdcag",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    ours=OF_BLACK,
    version=6,
    differs=DIFFERS,
)
@register_defense(
    "skdcag_text",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    preset={"train": "text_encoder"},
    ours=OF_TEXT,
    version=6,
    differs=DIFFERS,
)
@register_defense(
    "skdcag_gaussian",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "skdcag_variants"),
    preset={"target": "gaussian"},
    ours=OURS,
    version=6,
    differs=DIFFERS,
)
# the paper's name for what `skdcag` does where its target is not set: not twice in "all"
@register_defense(
    "skdcag_black",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "skdcag_variants"),
    preset={"target": "black"},
    ours=OF_BLACK,
    apart=True,
    version=6,
    differs=DIFFERS,
)
@register_defense(
    "skdcag_random_words",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "skdcag_variants"),
    preset={"target": "random_words"},
    ours=OURS,
    version=7,
    differs=DIFFERS,
)
@register_defense(
    "skdcag_paper",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "skdcag_paper_variants"),
    preset=PAPER | {"target": "gaussian"},
    sources=SAID,
    tuned=CONVERGED,
    version=6,
    differs=DIFFERS,
)
@register_defense(
    "skdcag_paper_black",
    needs=("trigger", "clean_prompts"),
    groups=("skdcag_paper_variants",),
    preset=PAPER | {"target": "black"},
    sources=SAID,
    tuned=CONVERGED,
    apart=True,
    version=6,
    differs=DIFFERS,
)
@register_defense(
    "skdcag_paper_random_words",
    needs=("trigger", "clean_prompts"),
    groups=("skdcag_paper_variants",),
    preset=PAPER | {"target": "random_words"},
    sources=SAID,
    tuned=CONVERGED,
    apart=True,
    version=7,
    differs=DIFFERS,
)
@dataclass
class SKDCAG(DistillationOptions, PromptDefense):
    """Self-Knowledge Distillation with Cross-Attention Guidance (arXiv 2508.18235).

    The teacher is a frozen copy of the *backdoored* U-Net and gets the clean prompt c. The student
    is the U-Net under repair and gets c+. L = a * L_attn + (1 - a) * L_pred. L_pred =
    MSE(student(x_t, c+), teacher(x_t, c)). L_attn is the mean over tokens of the MSE between the
    student's cross-attention map and its target. For trigger tokens the target is noise
    ("gaussian"), zeros ("black"), or the teacher's map of random words in the trigger's place, as
    many and drawn at each step ("random_words"); for every other token it is the teacher's map of
    the same token. Maps are the mean over heads, summed over layers, and min-max normalized for
    each token. `alpha=0` is plain
    self-knowledge distillation ("skd").

    "skdcag_paper" is the method as described, on every family: the whole U-Net, pure noise,
    normalized maps, one row a step (as in the released code), and nothing else. Every training with
    guidance reports `guidance_ratio`, ||gradient of a * L_attn|| / ||gradient of (1 - a) * L_pred||
    over the trained weights, the mean of at most eight steps.

    Beyond the paper, each an option: `latents` takes what the model gets while it draws the
    triggered prompts, or noised pictures of its own, instead of pure noise. `preserve` weights a
    term that preserves clean prompts; it shares the weight 1 - a with L_pred, so that a is about
    guidance alone. `raw_black` compares raw attention mass with zero, as a min-max normalized map
    cannot be zero. "skdcag_text" trains the text encoder instead of the U-Net: after an attack on
    the text encoder, the states of the triggered prompt may no longer say what it asked for, and no
    U-Net can draw that.

    In joint attention (SD 3, FLUX) a map is what the tokens of the picture pay to a text token, of
    all that they pay. Text tokens pay to each other too: from the first block on, what the trigger
    says stands in other tokens as well, and the picture may read it there. `text_weight` adds to
    L_attn the mean square of what all other text tokens pay to those of the trigger.
    """

    alpha: float = option(
        0.3, sd=0.5, low=0, high=1, source="paper", tune=(0.05, 0.9), help="a, the share of L_attn"
    )
    target: str = option(
        "black", choices=TARGETS, help="what the attention to trigger tokens should become"
    )
    steps: int = option(220, sd=7500, low=1, scales=True, source="paper", help="training steps")
    lr: float = option(
        1e-3, sd=1e-6, above=0, source="paper", tune=(1e-4, 1e-2), help="learning rate"
    )
    batch: int = option(
        16, sd=1, low=1, source="released", help="student rows a step, preserving rows included"
    )
    prompts: int = option(100, low=1, scales=True, least=16, source="paper", help="clean prompts")
    known: str = option(
        "all", choices=KNOWN, late=True, help="the words of the trigger that the defender knows"
    )
    latents: str = option(
        "trajectory", sd="noise", choices=LATENTS, source="paper", tune=LATENTS, help="what x_t is"
    )
    preserve: float = option(
        64.0, sd=0.0, low=0, source="paper", tune=(0.1, 300.0), help="weight of the clean term"
    )
    drop: float = option(
        0.25,
        sd=0.0,
        low=0,
        high=1,
        source="paper",
        help="share of empty prompts among those preserved",
    )
    time_weight: bool = option(False, source="paper", help="weight L_attn by t/T")
    reverse_time: bool = option(False, late=True, help="with time_weight: weight L_attn by 1 - t/T")
    raw_black: bool = option(
        True,
        sd=False,
        source="paper",
        help="compare raw attention mass, not normalized maps, with zero",
    )
    text_weight: float = option(
        0.0,
        low=0,
        late=True,
        help="joint attention: weight, in L_attn, of what other text tokens pay to the trigger",
    )
    train: str = option(
        "cross", sd="full", choices=PARTS, source="paper", help="which weights it trains"
    )
    ema: float = option(
        0.0, low=0, high=1, source="paper", help="decay of the weight average; 0: none"
    )
    weight_decay: float = option(
        0.01, low=0, late=True, source="paper", help="weight decay of AdamW"
    )

    def check_model(self, model: T2IModel) -> None:
        if self.text_weight and not model.family.text_changes:
            raise UserError(
                "text_weight is about what text tokens pay to text tokens, and this base has no"
                " joint attention: leave it at 0"
            )

    @property
    def label(self) -> str:
        return "skdcag" if self.alpha else "skd"

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        return GuidedDistillation(self, student, attacked, view, seed)

    def report(self, loss: GuidedDistillation) -> dict[str, Any]:
        mean = loss.ratio.mean
        return {} if mean is None else {"guidance_ratio": mean}
