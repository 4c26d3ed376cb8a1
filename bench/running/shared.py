"""What the cells of a run share: the plan, the run folder, the loaded base model, the networks that
measure, and the prompts. Each is made when it is first asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from torch import nn

from t2i_backdoor_bench.contract import Backdoor, Data, Prompt
from t2i_backdoor_bench.data.splits import required_word
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.offload import placed
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.inception import Inception
from t2i_backdoor_bench.scoring.networks import Lpips
from t2i_backdoor_bench.scoring.scorer import Scorer, load_second
from t2i_backdoor_bench.store.folder import Store

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class InMemory:
    """The models that stay in memory between cells: the base, one attacked and one defended model,
    each with the key that it was made for."""

    base: T2IModel | None = None
    attacked: tuple[str, Any] = ("", None)
    defended: tuple[str, Any] = ("", None)


@dataclass
class Shared:
    """Handed to every stage of a cell. `failed` has the tracebacks of attacks that failed in this
    process, by the key of their weights."""

    plan: Plan
    store: Store
    display: Display
    models: InMemory = field(default_factory=InMemory)
    failed: dict[str, str] = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict)
    until: float = math.inf  # the moment (`time.time`) from which no cell is begun: `--time-limit`

    @property
    def size(self) -> Scale:
        return self.plan.config.size

    @property
    def data(self) -> Data:
        return self.plan.data

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once in this process for each key."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def stored_arrays(
        self, name: str, make: Callable[[], dict[str, np.ndarray]], meta: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Stored arrays, or else made and stored, by one process alone."""
        found = self.store.read_arrays(name)
        if found is not None:
            return found[0]
        with self.store.claim(name, wait=True):
            found = self.store.read_arrays(name)  # another process may have made them meanwhile
            if found is not None:
                return found[0]
            arrays = make()
            self.store.write_arrays(name, arrays, meta)
        return arrays

    # ------------------------------------------------------------------------ models and networks
    @property
    def model(self) -> T2IModel:
        """The base model, before the attack."""
        if self.models.base is None:
            config = self.plan.config
            # their loading bars would tear the display, and an error's one line
            for library in (diffusers, transformers):
                library.utils.logging.disable_progress_bar()
            dtype = DTYPES[config.dtype]
            if config.device.startswith("cuda") and self.plan.base.settings == "sd":
                torch.set_float32_matmul_precision("high")  # TF32
                torch.backends.cudnn.allow_tf32 = True
            base = self.plan.base
            self.models.base = load_base(
                config.base, config.device, dtype, config.memory, base.sampler, base.over
            )
        return self.models.base

    @property
    def features(self) -> Features:
        """The networks that measure."""
        return self.once("features", self._load_features)

    def _load_features(self) -> Features:
        device = self.plan.config.device
        spec = self.plan.base.scorer
        scorer, second = Scorer.load(spec, device), load_second(spec, device)
        inception, lpips = Inception.load(device=device), Lpips.load(device)
        return Features(scorer, inception, lpips=lpips, second=second)

    def load(self) -> None:
        """Load the base model and the networks now. Raises UserError for one that is missing."""
        _ = self.model, self.features

    def drop_models(self) -> None:
        """Forget the models in memory. They are read from disk again when they are needed."""
        self.models = InMemory()

    def offloaded(self, *models: T2IModel) -> AbstractContextManager[None]:
        """A block in which a method works on `models`; with `--memory offload` what is idle waits
        on the CPU."""
        waiting: list[nn.Module] = []
        if models and "offload" in self.plan.config.memory:
            networks = [n.network for n in (self.features.inception, self.features.lpips) if n]
            scorers = [s.model for s in (self.features.scorer, self.features.second) if s]
            waiting = [*scorers, *networks]
            waiting += [part for model in models for part in model.idle]
        return placed("cpu", waiting)

    # ------------------------------------------------------------------------ prompts and pictures
    def prompts(self, seed: int, source: str = "") -> list[Prompt]:
        """The evaluation prompts; with `source`, those that contain this word."""
        return self.once(
            ("prompts", seed, source),
            lambda: self.data.prompts("evaluation", self.size.n, seed, source),
        )

    def real(self, seed: int) -> np.ndarray:
        """Held-out real images."""
        return self.once(
            ("real", seed), lambda: self.data.pairs("evaluation", self.size.real, seed)[0]
        )

    def backdoor(self, attack: str) -> Backdoor:
        return self.once(
            ("backdoor", attack), lambda: self.plan.attacks[attack].instance.backdoor(self.model)
        )

    def source(self, attack: str) -> str:
        """The word or letter that a prompt must contain to get the trigger; "" if any prompt will
        do."""
        backdoor = self.backdoor(attack)
        replaces = backdoor.trigger.replaces if backdoor.trigger else ""
        return self.once(
            ("source", attack), lambda: required_word(self.data, backdoor.target.source, replaces)
        )
