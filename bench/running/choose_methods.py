"""The methods of a run with their options, from the names and settings that the user gave."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Registry, registry
from t2i_backdoor_bench.contract.names import parts_of, read
from t2i_backdoor_bench.contract.options import scaled
from t2i_backdoor_bench.models.catalog import Base
from t2i_backdoor_bench.running import sweep
from t2i_backdoor_bench.running.combined import attack_rows
from t2i_backdoor_bench.running.fitting import fitting
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.overrides import parse_overrides, used_names
from t2i_backdoor_bench.running.settings import Config


def choose_methods(
    config: Config, base: Base, named: Sequence[str]
) -> tuple[dict[str, Method], dict[str, tuple[Method, ...]], dict[str, Method], dict[str, str]]:
    """The attacks (those that are `named`), defenses and metrics of a run by the names of their
    rows, with their options; and why others do not work on the base. Raises UserError."""
    attacks, defenses, unfit = fitting(config, base, named)
    metrics = registry.metrics.select(config.metrics or config.scale.metrics)
    used = used_names((*attacks, *defenses))
    options = parse_overrides(config.overrides, {*used, *metrics})
    sweeps = sweep.parse(config.sweeps, used, options)

    def method(kind: Registry, name: str, own: dict[str, str] | None = None) -> Method:
        training = 1.0 if kind is registry.metrics else config.size.training
        return build(kind, name, base.settings, options.get(name, {}) | (own or {}), training)

    def variants(kind: Registry, names: Sequence[str]) -> dict[str, tuple[Method, ...]]:
        return {
            v: tuple(method(kind, *part) for part in parts)
            for n in names
            for v, parts in sweep.expand(n, sweeps).items()
        }

    def defend(name: str) -> tuple[Method, ...]:
        (chosen, *_) = registry.defenses.select(name)
        return tuple(method(registry.defenses, *read(part)) for part in parts_of(chosen))

    rows = {
        row: found
        for name, parts in variants(registry.attacks, attacks).items()
        for row, found in attack_rows(name, parts, defend).items()
    }
    built = variants(registry.defenses, defenses)
    return rows, built, {m: method(registry.metrics, m) for m in metrics}, unfit


def build(
    kind: Registry, name: str, family: str, overrides: dict[str, str], training: float
) -> Method:
    """A method with its options. `training` multiplies the defaults of those that scale."""
    instance = scaled(kind.build(name, family, overrides), overrides, training)
    return Method(name, instance, kind.get(name))
