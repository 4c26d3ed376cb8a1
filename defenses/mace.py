from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Difference, option, register_defense
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.alignment import align_states
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.erasers import focal_times, marked_attention
from t2i_backdoor_bench.training.loop import step_generator
from t2i_backdoor_bench.training.removal import of_prompts
from t2i_backdoor_bench.training.rows import Drawn
from t2i_backdoor_bench.training.text_edits import TextEdit
from t2i_backdoor_bench.training.trained_defense import Loss, PromptDefense

NOT_ON_FLUX = {"flux": "in its single blocks text has no keys and values of its own"}
DIFFERS = (
    Difference(
        what="place where attention to the concept is suppressed",
        paper="the object's mask by Grounded-SAM, on pictures of the concept",
        here="everywhere, on what `latents` says of the triggered prompts",
        why="a trigger has no object, and no segmenting network is at hand",
    ),
    Difference(
        what="tokens whose attention is suppressed",
        released="those of the concept, the end token and padding",
        here="those of the trigger",
        why="without a mask of the object the end token draws what the prompt asks for",
    ),
    Difference(
        what="what the other words become in the closed form",
        paper="what they are beside a more general concept",
        here="what they are in the clean prompt",
        why="a trigger has no more general concept",
    ),
    Difference(
        what="weights that train",
        paper="LoRA of rank 1 on keys and values, merged in closed form over concepts",
        here="keys and values themselves",
        why="there is one trigger, and LoRA needs a package; set train=lora for adapters",
    ),
)


@register_defense(
    "mace",
    needs=("trigger", "clean_prompts"),
    groups=("removal", "erasure"),
    paper="lu2024mace",
    version=1,
    not_on=NOT_ON_FLUX,
    differs=DIFFERS,
)
@dataclass
class MACE(PromptDefense):
    """Mass concept erasure, with the trigger as the concept (Lu et al., CVPR 2024).

    arXiv 2403.06135. First, keys and values are edited in closed form so that what stands beside
    the trigger is what it is in the clean prompt: other words carry its information, too. Then they
    train until the picture pays no attention to the trigger: loss mean over the trigger's tokens of
    ||A||^2 / places, A being the softmax maps, mean over layers, on noised pictures that the
    attacked model draws with the trigger (`latents="own"`; `focal` is about these alone).
    """

    steps: int = option(100, sd=50, low=1, scales=True, source="released", help="training steps")
    lr: float = option(
        3e-4, sd=1e-5, above=0, source="released", tune=(3e-5, 3e-3), help="learning rate"
    )
    batch: int = option(16, sd=1, low=1, source="released", help="student rows a step")
    ridge: float = option(
        0.5, sd=100.0, above=0, source="released", tune=(0.05, 50.0), help="weight of old weights"
    )
    keep: float = option(
        1.0, sd=0.0, low=0, source="released", tune=(0.1, 10.0), help="weight of clean prompts"
    )
    focal: bool = option(
        True, source="released", help="with latents=own: timesteps between 200 and 400 of 1000"
    )
    train: str = option("kv", choices=TRAIN, source="paper", help="which weights it trains")

    def begin(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        refined = model.clone(train="kv")
        self.task(model, view).apply(model, refined, seed)
        return refined

    def task(self, model: T2IModel, view: DefenderView) -> TextEdit:
        """The edit of what stands beside the trigger."""
        prompts = view.first(self.prompts)
        row = align_states(model.text_parts, view.trigger, prompts)
        places = torch.where(row.other, row.source, torch.arange(row.source.shape[1]))
        triggered = [view.trigger.add(p) for p in prompts]
        how = (1.0, self.keep, self.ridge)
        return TextEdit(triggered, prompts, places, ~row.trigger, prompts, *how)

    def loss(self, student: T2IModel, attacked: T2IModel, view: DefenderView, seed: int) -> Loss:
        room = of_prompts(self, student, attacked, view, seed, shown=True)
        aligned = align_states(student.text_parts, view.trigger, room.prompts)
        marked = aligned.trigger.to(student.device)

        def suppress(step: int, drawn: Drawn) -> Tensor:
            rows = drawn.rows
            x, t = rows.x, rows.t
            if self.focal and rows.pictures is not None:
                noising = student.noising
                generator = step_generator(seed + 1, step)
                t = focal_times(noising.total, len(t), generator).to(x.device)
                x = noising.add(rows.pictures, rows.noise, t)
            with Capture(student) as seen:
                student.denoise(x, t, room.told(rows))
            parts = [marked_attention(maps, marked[rows.pick]) for maps in seen.layers()]
            return torch.stack(parts).mean()

        return room.loss(suppress)
