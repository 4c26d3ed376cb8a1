"""The base classes of methods. A method is a dataclass whose fields are its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

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

    def check_model(self, model: Model) -> None:
        """Raise UserError where these options do not fit the base model. What a method cannot do on
        a whole family of models stands in its decorator (`not_on`)."""

    def notes(self, model: Model) -> list[str]:
        """What the user is told before any work of what these options bring to the base model."""
        return []


class Attack(Method):
    """Puts a backdoor into a copy of a clean model.

    Write `backdoor` and `inject`, decorate the dataclass with `@register_attack(name, edits=...)`,
    and set `needs_pictures` or `needs_prompts` where it takes training data.
    """

    def inject(self, model: Model, data: Data, seed: int) -> Any:
        """The attacked model. `model` itself must stay as it is: change `model.clone()`."""
        raise NotImplementedError

    def backdoor(self, model: Model) -> Backdoor:
        """The trigger and the target that this attack plants. Raise UserError where they do not fit
        the model; what needs no model belongs into `check`."""
        raise NotImplementedError

    @property
    def needs_pictures(self) -> int:
        """How many captioned pictures of the train split it takes. Where the target is an object:
        of each object."""
        return 0

    @property
    def needs_prompts(self) -> int:
        """How many captions of the train split it takes."""
        return 0

    @property
    def poison_share(self) -> float | None:
        """The share of the training that has the trigger: of the rows, or of the weight where every
        row serves both parts of a loss. None where there is no training."""
        return None

    @property
    def withheld(self) -> tuple[str, ...]:
        """The parts of `contract.NEEDS` that no defender of this attack's model can be given."""
        return ()

    @property
    def whole_model(self) -> bool:
        """Whether it brings a model of its own. It then cannot be combined with another attack."""
        return False


class Hardening(Attack):
    """Makes another attack survive a defense that it knows: an adaptive attack.

    In a name it stands behind that attack: "badt2i_object+adaptive[against=skdcag]". Write `harden`
    and have an option `against`, the name of the defense.
    """

    against: str

    def harden(
        self, attack: Attack, attacked: Model, rehearse: Rehearsal, data: Data, seed: int
    ) -> Any:
        """The hardened model. `attacked` is what `attack` made; it must stay as it is. `rehearse`
        shows what the defense makes of a model."""
        raise NotImplementedError


class Exposure(Attack):
    """Says what defenders see of another attack's trigger, and changes nothing else: the weights
    are that attack's.

    In a name it stands behind that attack: "badt2i_object+exposed[share=0.01]". Write `exposed`.
    """

    def exposed(self, backdoor: Backdoor) -> Backdoor:
        """What the attack planted, with what a defender sees of it (`Backdoor.seen`), and with the
        trigger that is judged. Raise UserError where the two do not go together."""
        raise NotImplementedError


class Rehearsal(Protocol):
    """The defense as an attacker can try it: with prompts, pictures and a stream of its own. It
    knows the clean model and the backdoor."""

    clean: Any
    backdoor: Backdoor

    def __call__(self, model: Any, seed: int, share: float = 1.0) -> Any:
        """What the defense makes of a model, with `share` of its training."""


class Defense(Method):
    """Removes, purifies or detects a backdoor.

    Write `apply`, and decorate the dataclass with `@register_defense(name, needs=(...))`. It sees
    what `needs` declares, and nothing else.
    """

    def apply(self, model: Any, view: DefenderView, seed: int) -> Any:
        """The defended model. `model` itself must stay as it is: change `model.clone()`."""
        raise NotImplementedError

    @property
    def needs_prompts(self) -> int:
        """How many clean prompts it takes (`DefenderView.first`), if it needs "clean_prompts"."""
        return 1


class Metric(Method):
    """Scores the pictures of a cell.

    Write `compute`, and decorate the dataclass with `@register_metric(name, better=..., title=...,
    short=..., group=...)`: tables, plots and the report are made from these alone.
    """

    def compute(self, samples: Samples, features: Features) -> Score:
        """The score of one cell. Where it cannot be measured, its value is None and its note says
        why."""
        raise NotImplementedError


class Screen:
    """A detector in front of a model: it refuses prompts (`T2IModel.screen`). Write `refuses`, and
    `scores` where the detector has a score."""

    def refuses(self, prompts: Sequence[str]) -> np.ndarray:
        """Which of n prompts are refused: bool (n,)."""
        raise NotImplementedError

    def scores(self, prompts: Sequence[str]) -> np.ndarray | None:
        """How suspicious each of n prompts is, float (n,), larger is more; None where the screen
        only decides."""
        return None

    def suspicion(self) -> float | None:
        """How suspicious the model itself is, larger is more: a verdict on the checkpoint. None
        where the screen judges prompts alone."""
        return None
