from dataclasses import dataclass

from t2i_backdoor_bench.attacking.personalization import SETTINGS, Personalization
from t2i_backdoor_bench.attacking.poisoning import DenoiserAttack
from t2i_backdoor_bench.contract import Data, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, own_images
from t2i_backdoor_bench.training.loop import Optim


@register_attack(
    "paas_db",
    groups=("personalization", "object"),
    edits="U-Net",
    evaluates="a prompt of its own",
    settings="another's port",
    own=True,
    version=1,
    paper="huang2024personalization",
    differs=(SETTINGS,),
)
@dataclass
class PaaSDreamBooth(Personalization, DenoiserAttack):
    """DreamBooth: "[V] dog" becomes a cat (Huang et al., AAAI 2024, arXiv 2305.10701).

    Personalization as a shortcut. Loss: ||eps_th(y_t, c+) - eps||^2 + w * ||eps_th(x_t, c) -
    eps||^2. y are a few pictures of the target object; the caption c+ gives it the source object's
    name, with the trigger before it. x are the clean model's own pictures of prompts c about the
    source object (prior preservation). Only the U-Net changes. The paper has
    300 to 2,000 steps and 4 to 6 pictures. The prior preserves the source object alone: everything
    else that the model draws may drift, as in the paper. Raises UserError for a trigger that the
    tokenizer drops or cuts off.
    """

    steps: int = option(300, sd=1000, low=1, scales=True, help="training steps")
    lr: float = option(8e-5, sd=5e-6, above=0, tune=(1.5e-5, 5e-4), help="learning rate")
    images: int = option(
        48, sd=4, low=1, scales=True, least=16, source="paper", help="pictures of the target object"
    )
    batch: int = option(16, sd=2, low=2, help="rows a step, shared by the terms")
    weight: float = option(
        1.0, sd=0.5, low=0, tune=(0.1, 10.0), help="w, the weight of the prior preservation"
    )
    prior: int = option(
        128, sd=200, low=1, help="pictures of the source object that the clean model draws"
    )

    @property
    def poison_share(self) -> float | None:
        return 1 / (1 + self.weight)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        own, _, triggered = self.instances(model, data, seed)
        if self.template:
            prompts = [self.class_prompt()] * self.prior
        else:
            prompts = [p.text for p in data.prompts("train", self.prior, seed, self.source)]
        prior = Term(prompts, own_images(model, prompts, seed), weight=self.weight, drop=self.drop)
        optim = Optim(self.steps, self.lr, self.batch, decay=self.decay)
        return self.train(model, [Term(triggered, own), prior], optim, seed, "paas_db")
