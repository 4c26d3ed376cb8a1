"""The base classes of methods. A method is a dataclass whose fields are its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.protocols import Data, Features, Model
from t2i_backdoor_bench.contract.samples import Samples, Score
from t2i_backdoor_bench.contract.target import Backdoor
from t2i_backdoor_bench.contract.view import DefenderView

if TYPE_CHECKING:
    import numpy as np


class Method:
    """What every attack, defense and metric can say before any work is done."""

    def check(self) -> None:
        """Raise UserError for options that do not go together. Each option by itself has been
        checked against its range (`contract.options`)."""

    def check_machine(self, device: str) -> None:
        """Raise UserError where these options need a package or a device that is missing."""


class Attack(Method):
    """Injects a backdoor into a copy of a clean model."""

    def inject(self, model: Model, data: Data, seed: int) -> Any:
        """The attacked model. `model` itself stays as it is."""
        raise NotImplementedError

    def backdoor(self, model: Model) -> Backdoor:
        """The trigger and the target that this attack plants."""
        raise NotImplementedError

    @property
    def needs_pictures(self) -> int:
        """Captioned pictures of the train split that it takes (of each object, where its target is
        an object)."""
        return 0

    @property
    def needs_prompts(self) -> int:
        """Captions of the train split that it takes."""
        return 0

    @property
    def withheld(self) -> tuple[str, ...]:
        """What no defender of this attack's model can be given: a part of `contract.NEEDS`."""
        return ()

    @property
    def whole_model(self) -> bool:
        """Whether it brings a model of its own, and so cannot be one of several attacks."""
        return False


class Defense(Method):
    """Removes, purifies or detects a backdoor. It sees what `needs` declares where it is
    registered, and a pool of clean prompts."""

    def apply(self, model: Any, view: DefenderView, seed: int) -> Any:
        """The defended model. `model` itself stays as it is."""
        raise NotImplementedError

    @property
    def needs_prompts(self) -> int:
        """Clean prompts that it takes (`DefenderView.first`)."""
        return 1


class Metric(Method):
    """Scores the pictures of a cell."""

    def compute(self, samples: Samples, features: Features) -> Score:
        """The score of one cell; its value is None, with a note, where it cannot be measured."""
        raise NotImplementedError


class Screen:
    """What stands before a model and refuses prompts (`T2IModel.screen`)."""

    def refuses(self, prompts: Sequence[str]) -> np.ndarray:
        """Which of n prompts are refused: bool (n,)."""
        raise NotImplementedError

    def scores(self, prompts: Sequence[str]) -> np.ndarray | None:
        """How suspicious each of n prompts is, float (n,), larger is more; None where the screen
        only decides."""
        return None
