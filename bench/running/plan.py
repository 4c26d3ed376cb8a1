"""From settings to cells: methods with their options, and the content keys of everything that a
run makes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2i_backdoor_bench.contract import NEEDS, PROTOCOL, Cell, Data, Entry, UserError, registry
from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.models.catalog import Base, find_base, sampled, with_over
from t2i_backdoor_bench.models.fingerprint import fingerprint, scorer_fingerprint
from t2i_backdoor_bench.running.checks import check_fid, check_other_base, check_settings, precision
from t2i_backdoor_bench.running.choose_data import choose_data, fit_real
from t2i_backdoor_bench.running.choose_methods import build, choose_methods
from t2i_backdoor_bench.running.controls import is_control
from t2i_backdoor_bench.running.lacking import lacking, left_out
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.trial_data import FirstPrompts, trial

FORMAT = 3  # raise it when a change of this package makes stored numbers out of date


@dataclass(frozen=True)
class Plan:
    """The cells of a run in the order of the work (seed, attack, defense), and the methods that
    they name."""

    config: Config
    base: Base
    data: Data
    seeds: tuple[int, ...]
    attacks: dict[str, Method]
    defenses: dict[str, tuple[Method, ...]]
    metrics: dict[str, Method]
    scorer: str
    cells: list[Cell]
    # defense: what it needs and no attack of the run leaves to it
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # method of a group: why it does not work on this family of models
    unfit: dict[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()  # further lines for the user

    def needs(self, defense: str) -> tuple[str, ...]:
        """The union of what the parts of a defense declare, without what an earlier part gives to a
        later one."""
        declared: set[str] = set()
        given: set[str] = set()
        for part in self.defenses[defense]:
            declared |= set(part.entry.needs) - given
            given |= set(part.entry.gives)
        return tuple(n for n in NEEDS if n in declared)

    def metrics_of(self, attack: str, defense: str) -> list[str]:
        """The metrics that a cell is measured by: those registered with `only="flag"` serve attacks
        or defenses with that flag, such as "screens", or runs that draw "resampled" pictures or
        see what is "recovered", or machines that have their "weights".
        """
        own = self.defenses.get(defense, ())  # "none" may be in no plan
        parts = (self.attacks[attack], *own)
        flags = {flag for part in parts for flag in part.entry.flags}
        size, probe = self.config.size, self.config.probe
        flags |= {"resampled"} if size.resampled or probe else set()
        flags |= {"probe"} if size.recovered or probe else set()
        if own and all(is_control(part.entry) for part in own):
            flags -= {"probe", "resampled"}  # a control repairs nothing that could come back
        if "clean_model" in self.attacks[attack].instance.withheld:
            flags -= {"undefended"}  # what an attack did to a model that nobody has

        def serves(entry: Entry) -> bool:
            return entry.only in ("", *flags) or (
                entry.only == "weights" and bool(self._found(entry.weights))
            )

        return [name for name, m in self.metrics.items() if serves(m.entry)]

    @property
    def notes(self) -> list[str]:
        """What is taken over the base, and what of the request has no cell, and why."""
        alike = {w: [n for n in self.unfit if self.unfit[n] == w] for w in self.unfit.values()}
        unfit = [f"{', '.join(n)}, not for this family of models: {w}" for w, n in alike.items()]
        lacks = self.left_out.items()
        unfit += [f"{d} needs {', '.join(n)}, which nobody has here" for d, n in lacks]
        over = self.base.over.notes if self.base.over else []
        return [*over, *(f"left out: {text}" for text in unfit), *self.said]

    @property
    def shared(self) -> dict[str, Any]:
        """The part of every key that does not name an attack or a defense."""
        return self.cells[0].config["shared"] if self.cells else {}

    def sibling(self, cell: Cell, parts: Sequence[Method]) -> Cell:
        """The cell of the same attack, seed and size with another defense, whether or not it is one
        of the run's."""
        config = {**cell.config, "defense": [part.key for part in parts]}
        return Cell(
            cell.base,
            cell.attack,
            "+".join(part.name for part in parts),
            cell.seed,
            digest(config),
            config,
        )

    def undefended(self, cell: Cell) -> Cell:
        """The cell of the same attack, seed and size without a defense."""
        return self.sibling(cell, [build(registry.defenses, "none", self.base.settings, {}, 1.0)])

    def attack_key(self, attack: str, seed: int) -> str:
        """Key of the attacked weights: they depend on nothing that is only evaluated."""
        return digest(
            {"shared": self.shared, "attack": self.attacks[attack].weights_key, "seed": seed}
        )

    def before_key(self, seed: int, source: str) -> str:
        """Key of the base's own samples."""
        return digest(
            {
                "shared": self.shared,
                "protocol": PROTOCOL,
                "evaluation": self.config.size.evaluation,
                "seed": seed,
                "source": source,
            }
        )

    def _found(self, variable: str) -> bool | str:
        """Whether there are the weights that `variable` names; of a second scorer its
        fingerprint, as it may be any."""
        from t2i_backdoor_bench.scoring.networks import find_weights
        from t2i_backdoor_bench.scoring.scorer import SECOND_VARIABLE, second_scorer

        if variable != SECOND_VARIABLE:
            return bool(variable) and find_weights(variable) is not None
        spec = second_scorer(self.base.scorer)
        return scorer_fingerprint(spec) if spec else ""

    def metric_key(self, metric: str) -> str:
        """Key of how a metric is computed; a stored score with another one is recomputed from the
        stored samples. A metric registered with `weights="VARIABLE"` reads published weights
        (`scoring.networks`): with and without them are two keys.
        """
        method = self.metrics[metric]
        found = self._found(method.entry.weights)
        given = {"weights": found} if found else {}
        return digest({"metric": method.key, "scorer": self.scorer} | given)


def plan(config: Config, data: Data | None = None) -> Plan:
    """Check everything that the user asked for, without work, and expand it into cells. Raises
    UserError."""
    # first: a package that brings methods may bring a base
    names = registry.attacks.select(config.attacks)
    base = find_base(config.base)
    if config.models:
        base = with_over(base, config.base, config.models)
    base = dataclasses.replace(base, scorer=config.clip or base.scorer)
    config = dataclasses.replace(config, dtype=precision(config, base))
    check_settings(config)
    base = sampled(base, config.steps, config.guidance, config.scheduler)
    attacks, defenses, metrics, unfit = choose_methods(config, base, names)
    without_fid = check_fid(config, base, list(metrics))
    check_other_base(base, metrics)
    data = data or choose_data(config, base)
    config = fit_real(config, data)
    if config.size.first_of:
        data = FirstPrompts(data, config.size.first_of)
    without = left_out(attacks, defenses)
    defenses = {d: parts for d, parts in defenses.items() if d not in without}
    if not defenses:
        lack = "; ".join(f"{d} needs {', '.join(needs)}" for d, needs in without.items())
        raise UserError(
            f"no defense of this run can work: {lack}; give the trigger with --trigger, or choose"
            " other --defenses"
        )
    scorer, seeds = scorer_fingerprint(base.scorer), tuple(config.seeds or config.scale.seeds)
    shared = _shared(config, base, data)
    cells = []
    for seed, a, d in itertools.product(seeds, attacks, defenses):
        if lacking(attacks[a], defenses[d]):
            continue
        about = {
            "shared": shared,
            "attack": attacks[a].key,
            "defense": [part.key for part in defenses[d]],
            "scorer": scorer,
            "seed": seed,
            "protocol": PROTOCOL,
            "evaluation": config.size.evaluation,
        }
        cells.append(Cell(config.base, a, d, seed, digest(about), about))
    methods = (attacks, defenses, metrics)
    said = tuple(text for text in (without_fid, trial(config.size)) if text)
    return Plan(config, base, data, seeds, *methods, scorer, cells, without, unfit, said)


def with_metrics(plan_: Plan, names: Iterable[str]) -> Plan:
    """The same with further metrics, such as those of stored records, with their defaults: options
    of metrics that are not in a run cannot be set."""
    more = {
        name: build(registry.metrics, name, plan_.base.settings, {}, 1.0)
        for name in names
        if name not in plan_.metrics
    }
    return dataclasses.replace(plan_, metrics=plan_.metrics | more)


def _shared(config: Config, base: Base, data: Data) -> dict[str, Any]:
    """The part of every key that names neither an attack nor a defense."""
    weights = {"name": config.base, "weights": fingerprint(base.source)}
    if base.over is not None:
        weights["over"] = base.over.identity
    return {
        "format": FORMAT,
        "base": weights | {"sampler": plain(base.sampler.key)},
        "data": data.name,
        "device": config.device.split(":")[0],
        "dtype": config.dtype,
    } | ({"memory": sorted(config.memory)} if config.memory else {})
