from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Difference,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.models.families.conditioning import cat
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import LATENTS, Drawn
from t2i_backdoor_bench.training.trained_defense import CLIPPING, PARTS, Loss, PromptDefense

OURS = "the clean prompt as anchor, which makes a small n plain self-distillation"
X, U = {"train": "cross"}, {"train": "noncross"}
PROMPT = {"anchor": "prompt", "context": "prompts"}
# The second release, with settings of its own. Its negative guidance of 2 counts from the concept's
# prediction: e_p - 2 (e_p - e_0) = e_0 - 1 (e_p - e_0), n 1 here.
REWRITE = {"eta": 1.0, "walker": "teacher"}
REWRITTEN = {"steps": 200, "lr": 5e-5}  # these two are for Stable Diffusion
SAID = dict.fromkeys(("eta", "steps", "lr"), "released")
GUIDED = Difference(
    what="negative guidance of the rewrite",
    released="2, counted from the prediction for the concept",
    here="1, counted from that for the anchor",
    why="the same: e_p - 2 (e_p - e_0) = e_0 - 1 (e_p - e_0)",
)
DIFFERS = (
    Difference(
        what="walk that x_t is taken from",
        released="50 steps of DDIM",
        here="the steps of the model's own sampler",
        why="one sampler serves the whole suite",
    ),
    Difference(
        what="weights of esd_u",
        paper="all but the cross-attention",
        released="without the time embedding and the output layer, too; the rewrite: linear and"
        " convolution layers",
        here="all but the cross-attention",
    ),
    CLIPPING,
)


@register_defense(
    "esd_x",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    preset=X,
    version=1,
    differs=DIFFERS,
)
@register_defense(
    "esd_u",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    preset=U,
    tuned={"lr": 3e-4},
    version=1,
    differs=DIFFERS,
)
@register_defense(
    "esd_x_prompt",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    preset=X | PROMPT,
    tuned={"eta": 0.25},
    ours=OURS,
    version=1,
    differs=DIFFERS,
)
@register_defense(
    "esd_u_prompt",
    needs=("trigger", "clean_prompts"),
    groups=("removal",),
    preset=U | PROMPT,
    tuned={"lr": 3e-4},
    ours=OURS,
    version=1,
    differs=DIFFERS,
)
@register_defense(
    "esd_x_rewrite",
    needs=("trigger", "clean_prompts"),
    groups=("esd_rewrite",),
    preset=X | REWRITE | REWRITTEN,
    sources=SAID,
    tuned={"lr": 2e-4},
    version=2,
    differs=(GUIDED, *DIFFERS),
    apart=True,
)
@register_defense(
    "esd_u_rewrite",
    needs=("trigger", "clean_prompts"),
    groups=("esd_rewrite",),
    preset=U | REWRITE | REWRITTEN,
    sources=SAID,
    tuned={"lr": 3e-4},
    version=2,
    differs=(GUIDED, *DIFFERS),
    apart=True,
)
@dataclass
class ESD(PromptDefense):
    """Erased Stable Diffusion, with the trigger as the concept (Gandikota et al., ICCV 2023).

    Loss: ||eps_th(x_t, c+) - (eps_0(a) - n * (eps_0(c+) - eps_0(a)))||^2. eps_0 is the frozen
    backdoored model; x_t is what the student gets while it draws the concept c+, which is the
    trigger alone (one of its forms, if it is a pattern). The anchor a is the empty prompt. esd_x
    trains the cross-attention, esd_u everything else.

    The authors released it twice. esd_x and esd_u are the code of the paper, `esd_x_rewrite` and
    `esd_u_rewrite` the later one: 200 steps at 5e-5, and the frozen model walks. (Its guidance of 2
    is n 1 here: it counts from the concept's prediction.)
    `esd_x_prompt` and `esd_u_prompt` take triggered prompts for c+ and the clean prompt of each for
    the anchor, so that only what the trigger adds is removed. Triggered prompts with the empty
    anchor would lose what they ask for.
    """

    eta: float = option(
        1.0, low=0, source="paper", tune=(0.1, 4.0), help="n, how far beyond the anchor"
    )
    anchor: str = option(
        "null", choices=("null", "prompt"), source="paper", help="null is the empty prompt"
    )
    context: str = option(
        "phrase",
        choices=("phrase", "prompts"),
        source="paper",
        help="what c+ is: the trigger by itself, or inside prompts",
    )
    steps: int = option(200, sd=1000, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        2e-4, sd=1e-5, above=0, source="released", tune=(2e-5, 2e-3), help="learning rate"
    )
    batch: int = option(
        16, sd=1, low=1, source="released", help="student rows a step, preserving rows included"
    )
    latents: str = option(
        "trajectory", choices=LATENTS, late=True, source="paper", help="what x_t is"
    )
    refresh: int = option(
        50, sd=1, low=1, source="released", help="steps after which the walk is done anew"
    )
    draws: int = option(24, sd=1, low=1, source="released", help="prompts that are then walked")
    walk: float = option(
        0.0, sd=3.0, low=0, source="released", help="guidance of the walk; 0: the model's own"
    )
    walker: str = option(
        "student", choices=("student", "teacher"), source="released", help="whose walk it is"
    )
    train: str = option("cross", choices=PARTS, source="paper", help="which weights it trains")
    weight_decay: float = option(0.0, low=0, source="released", help="weight decay of AdamW")

    def check(self) -> None:
        super().check()
        if self.anchor == "prompt" and self.context == "phrase":
            raise UserError(
                "the clean prompt is an anchor of the same prompt with the trigger: set"
                " context=prompts, or anchor=null"
            )

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        walker = student if self.walker == "student" else attacked
        if self.walk:
            walker = replace(walker, sampler=replace(walker.sampler, guidance=self.walk))
        phrase = view.trigger.words("") if self.context == "phrase" else ""
        room = of_prompts(
            self, student, attacked, view, seed, walker=walker, many=self.draws, concept=phrase
        )
        concept = attacked.condition(room.triggered)
        null = self.anchor == "null"

        def erase(step: int, drawn: Drawn) -> Tensor:
            rows = drawn.rows
            anchor = room.empty.expand(len(rows.t)) if null else room.clean[rows.pick]
            with torch.no_grad():
                told, x, t = cat([concept[rows.pick], anchor]), rows.x, rows.t
                both = attacked.denoise(torch.cat([x, x]), torch.cat([t, t]), told)
            with_trigger, without = both.chunk(2)
            goal = without - self.eta * (with_trigger - without)
            return F.mse_loss(student.denoise(x, t, room.told(rows)), goal)

        return room.loss(erase)
