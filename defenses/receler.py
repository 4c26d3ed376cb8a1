from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import align_states
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.erasers import Erasers, outside
from t2i_backdoor_bench.training.loop import fit
from t2i_backdoor_bench.training.parameters import Trainable, of_model
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import Drawn
from t2i_backdoor_bench.training.trained_defense import CLIPPING, WalkedDefense

DIFFERS = (
    Difference(
        what="eraser",
        paper="two linear layers with a nonlinearity between them, behind the cross-attention",
        here="two linear layers, merged into the output projection at the end",
        why="a repaired model is a checkpoint that any program reads",
    ),
    Difference(
        what="anchor",
        paper="the empty prompt, for the concept by itself",
        here="the clean prompt of each triggered prompt",
        why="what the prompt asked for is to stay, and only the trigger's part to go",
    ),
    Difference(
        what="adversarial prompt",
        paper="16 learned states behind the concept, kept from step to step, 50 steps each",
        here="learned states in the trigger's place, anew at each step",
        why="a trigger stands inside a prompt; a step then depends on its number alone",
    ),
    Difference(
        what="weight decay of the adversarial prompt",
        released="0.1",
        here="none",
        why="what is learned is how far states move, and begins at 0",
    ),
    Difference(
        what="maps that tell where the concept is",
        released="those of 16 x 16 places",
        here="those of all layers, resized and summed",
        why="not every base has layers of this size",
    ),
    CLIPPING,
)


@register_defense(
    "receler",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    paper="huang2024receler",
    differs=DIFFERS,
)
@dataclass
class Receler(WalkedDefense):
    """Reliable erasing by lightweight erasers (Huang et al., ECCV 2024, arXiv 2311.17717).

    Each cross-attention layer's output o becomes o + U D o, with U and D of a low rank; nothing
    else trains. Loss: ||eps_th(x_t, a) - (eps_0(c) - n (eps_0(c+) - eps_0(c)))||^2 + l times the
    mean square of U D o where the picture does not attend to the trigger (its map below `mask`,
    concept-localized regularization). The states a are those of c+ with the trigger's moved by
    Adam to bring eps_0(c+) back (adversarial prompt learning). eps_0 is the attacked model.
    """

    steps: int = option(200, sd=500, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        1e-3, sd=3e-4, above=0, source="released", tune=(1e-4, 1e-2), help="learning rate"
    )
    batch: int = option(16, sd=1, low=1, source="released", help="student rows a step")
    rank: int = option(16, sd=128, low=1, source="released", help="rank of the erasers")
    eta: float = option(
        0.25, sd=1.0, low=0, source="released", tune=(0.1, 4.0), help="n, how far beyond the anchor"
    )
    local: float = option(
        0.1, low=0, source="released", tune=(0.01, 10.0), help="l, weight of the regularization"
    )
    mask: float = option(
        0.1, low=0, high=1, source="released", help="least attention, of the largest, that counts"
    )
    attack: int = option(1, sd=50, low=0, source="released", help="steps of the adversarial prompt")
    attack_lr: float = option(0.1, above=0, source="released", help="their learning rate")
    train: str = option("erasers", choices=("erasers",), source="paper", help="what it trains")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        student = model.clone()
        loss = self.loss(student, model, view, seed)
        trained = of_model(Trainable(loss.erasers.parameters), model)
        info = fit(trained, loss, self.optim, "receler").info
        student.info = info | {"parameters": loss.erasers.merge()}
        return student

    def loss(
        self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int
    ) -> "Erasing":
        return Erasing(self, student, attacked, view, seed)


class Erasing:
    """The training loss as a function of the step, and the erasers that it puts into the
    student."""

    def __init__(
        self, method: Receler, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int
    ) -> None:
        self.method, self.student, self.attacked = method, student, attacked
        walks = {"walker": method.walker(student), "many": method.draws}
        self.room = of_prompts(method, student, attacked, view, seed, **walks)
        self.concept = attacked.condition(self.room.triggered)
        aligned = align_states(student.text_parts, view.trigger, self.room.prompts)
        # states of an encoder that is missing have no place in the alignment
        more = self.concept.states.shape[1] - aligned.trigger.shape[1]
        self.marked = F.pad(aligned.trigger, (0, more)).to(student.device)
        self.erasers = Erasers(student, method.rank, seed)
        self.total = self.room.loss(self.erase)

    def __call__(self, step: int) -> Tensor:
        return self.total(step)

    def erase(self, step: int, drawn: Drawn) -> Tensor:
        rows, method = drawn.rows, self.method
        own, at, here = self.concept[rows.pick], self.marked[rows.pick], (rows.x, rows.t)
        with torch.no_grad():
            with Capture(self.attacked) as seen:
                triggered = self.attacked.denoise(*here, own)
            clean = self.attacked.denoise(*here, self.room.clean[rows.pick])
            apart = outside(seen.maps(), at, method.mask)
        goal = clean - method.eta * (triggered - clean)
        told = self.attack(here, own, at, triggered)
        error = F.mse_loss(self.student.denoise(*here, told), goal)
        return error + method.local * self.erasers.size(apart)

    def attack(
        self, here: tuple[Tensor, Tensor], own: Conditioning, at: Tensor, wanted: Tensor
    ) -> Conditioning:
        """What is told of the triggered prompts with the trigger's states moved so that the
        student's prediction comes near `wanted`."""
        if not self.method.attack:
            return own
        moved = torch.zeros_like(own.states, requires_grad=True)
        optimizer = torch.optim.Adam([moved], lr=self.method.attack_lr)
        for _ in range(self.method.attack):
            told = Conditioning(own.states + moved * at[..., None], own.more)
            error = F.mse_loss(self.student.denoise(*here, told), wanted)
            (moved.grad,) = torch.autograd.grad(error, [moved])
            optimizer.step()
        return Conditioning(own.states + moved.detach() * at[..., None], own.more)
