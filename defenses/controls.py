"""Controls that bound what a defense can reach."""

from dataclasses import dataclass, replace

import numpy as np

from t2i_backdoor_bench.contract import DefenderView, Defense, Screen, register_defense
from t2i_backdoor_bench.models.model import T2IModel


@register_defense(
    "clean_model", needs=("clean_model",), groups=("control",), ours="the whole control"
)
@dataclass
class CleanModel(Defense):
    """The model before the attack, drawn in place of the attacked one: the upper bound of every
    removal.

    What is left of a metric here is no backdoor: the judge's own errors, and prompts that the model
    never drew right.
    """

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        clean = view.clean_model
        return replace(model, pipe=clean.pipe, adapter=clean.adapter, info={})


@register_defense(
    "stock_text_encoder",
    needs=("clean_text_encoder",),
    groups=("control",),
    ours="the whole control",
)
@dataclass
class StockTextEncoder(Defense):
    """The clean text encoder is put back: what removes every attack on a text encoder, and no
    other.

    A defender of a public model has that encoder on file. A defense against an attack on the text
    encoder has to beat it, or to need less.
    """

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return replace(model.with_encoders(view.clean_text_encoder), info={})


class RefuseAll(Screen):
    """Refuses every prompt, and finds all of them equally suspicious."""

    def refuses(self, prompts: list[str]) -> np.ndarray:
        return np.ones(len(prompts), bool)

    def scores(self, prompts: list[str]) -> np.ndarray:
        return np.zeros(len(prompts))


@register_defense("refuse_all", groups=("control",), screens=True, ours="the whole control")
@dataclass
class RefuseEverything(Defense):
    """Every prompt is refused. No backdoor is left, and no picture: the trick that any number about
    triggered prompts alone would reward."""

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return replace(model, screen=RefuseAll())
