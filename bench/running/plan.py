"""From names to cells: the scales, the configuration of a run, and the content-addressed keys of
everything it makes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import (
    NEEDS,
    Cell,
    Data,
    Entry,
    Registry,
    UserError,
    registry,
    suggest,
)
from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.contract.names import parts_of, read
from t2i_backdoor_bench.contract.options import options_of, scaled
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.open_captioned import open_data
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.catalog import MEMORY, Base, find_base, picture_side, reads
from t2i_backdoor_bench.models.fingerprint import fingerprint, scorer_fingerprint
from t2i_backdoor_bench.running import sweep
from t2i_backdoor_bench.running.combined import Several, rows

FORMAT = 3  # raise it when a change of this package makes stored numbers out of date
STYLES = ("full", "paper")  # of the tables for readers
EXECUTORS = ("local", "ray")  # who makes the cells: processes of this machine, or Ray
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Scale:
    """How much a run measures. `n` prompts a condition; the first `perturbed` and `moved` of them
    in those conditions; `per_prompt` images of each of the first `diverse`; `real` reference
    images; `training` multiplies what methods train for and on (`build`).
    """

    name: str
    n: int
    perturbed: int
    moved: int
    diverse: int
    per_prompt: int
    real: int
    training: float
    seeds: tuple[int, ...]
    metrics: str = "all"

    def resized(self, n: int) -> Scale:
        """The same scale with `n` prompts a condition."""
        return dataclasses.replace(
            self,
            n=n,
            perturbed=min(n, self.perturbed),
            moved=min(n, self.moved),
            diverse=min(n, self.diverse),
            real=max(n, self.real),
        )

    @property
    def evaluation(self) -> dict[str, int]:
        """What the samples of a cell depend on."""
        return {
            k: getattr(self, k)
            for k in ("n", "perturbed", "moved", "diverse", "per_prompt", "real")
        }


SCALES = {
    "smoke": Scale("smoke", 20, 6, 6, 2, 2, 200, 0.07, (0,)),
    "quick": Scale("quick", 100, 48, 32, 6, 6, 1000, 1.0, (0,)),
    "study": Scale(
        "study", 200, 0, 0, 0, 1, 1000, 1.0, (0, 1, 2)
    ),  # full without changed prompts and repeated draws
    "full": Scale("full", 200, 100, 100, 10, 10, 1000, 1.0, (0, 1, 2)),
}


@dataclass(frozen=True)
class Config:
    """What the user asked for. `overrides` are "name.option=value"; `n`, `seeds` and `metrics` of
    None are the scale's."""

    attacks: str = "core"
    defenses: str = "skdcag,baseline"
    base: str = "shapes"
    scale: Scale = SCALES["quick"]
    seeds: tuple[int, ...] | None = None
    n: int | None = None
    metrics: str | None = None
    overrides: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    out: Path | None = None
    fresh: bool = False
    attention_maps: bool = False
    probe: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    workers: int | None = None
    executor: str = "local"
    gpu_share: float | None = None  # GPUs that a cell takes with the executor ray
    data: str = ""  # captioned images (`data.captioned`); the embedded world where empty
    clip: str = ""  # the scorer, where it is not the base's
    memory: tuple[str, ...] = ()  # ways to save memory (`models.catalog.MEMORY`)
    style: str = "full"

    @property
    def size(self) -> Scale:
        return self.scale if self.n is None else self.scale.resized(self.n)

    @property
    def folder(self) -> Path:
        return self.out or Path("results") / f"run-{self.scale.name}"


@dataclass(frozen=True)
class Method:
    """An attack, a defense (or one part of a composition) or a metric, with its options as they
    will be used."""

    name: str
    instance: Any
    entry: Entry

    @property
    def key(self) -> dict[str, Any]:
        if isinstance(self.instance, Several):
            return self.weights_key | {"which": self.instance.which}
        values = vars(self.instance)
        known = options_of(type(self.instance)).items()
        late = {n for n, (f, o) in known if o.late and values[n] == f.default}
        version = {"version": self.entry.version} if self.entry.version else {}
        return {
            "name": self.name,
            "options": {k: v for k, v in plain(self.instance).items() if k not in late},
        } | version

    @property
    def weights_key(self) -> dict[str, Any]:
        """The key of the attacked weights: all rows of one composition share them."""
        if not isinstance(self.instance, Several):
            return self.key
        return {"name": self.name, "options": {"parts": [part.key for part in self.instance.parts]}}


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
    left_out: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # defense: what it needs and no attack of the run leaves to it

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
        or defenses with that flag, such as "screens", or runs with "probe", or machines that have
        their "weights", and leave other stored records whole.
        """
        parts = (self.attacks[attack], *self.defenses[defense])
        flags = {flag for part in parts for flag in part.entry.flags}
        flags |= {"probe"} if self.config.probe else set()
        if "clean_model" in self.attacks[attack].instance.withheld:
            flags -= {"undefended"}  # what an attack did to a model that nobody has

        from t2i_backdoor_bench.scoring.networks import find_weights

        def serves(entry: Entry) -> bool:
            return entry.only in ("", *flags) or (
                entry.only == "weights" and find_weights(entry.weights) is not None
            )

        return [name for name, m in self.metrics.items() if serves(m.entry)]

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
                "evaluation": self.config.size.evaluation,
                "seed": seed,
                "source": source,
            }
        )

    def metric_key(self, metric: str) -> str:
        """Key of how a metric is computed; a stored score with another one is recomputed from the
        stored samples. A metric registered with `weights="VARIABLE"` reads published weights
        (`scoring.networks`): with and without them are two keys.
        """
        method = self.metrics[metric]
        from t2i_backdoor_bench.scoring.networks import find_weights

        variable = method.entry.weights
        given = {"weights": True} if variable and find_weights(variable) else {}
        return digest({"metric": method.key, "scorer": self.scorer} | given)


def feature_dimension(spec: str) -> int:
    """Dimension of the scorer's image features, read from its configuration without its weights."""
    config = Path(spec) / "open_clip_config.json"
    if config.is_file():
        return int(json.loads(config.read_text())["model_cfg"]["embed_dim"])
    import open_clip

    model = open_clip.get_model_config(spec.split(":")[0])
    return int(model["embed_dim"]) if model else 0


def plan(config: Config, data: Data | None = None) -> Plan:
    """Check everything that the user asked for, without work, and expand it into cells. Raises
    UserError."""
    attacks = registry.attacks.select(
        config.attacks
    )  # first: a package that brings methods may bring a base
    base, seeds = find_base(config.base), config.seeds or config.scale.seeds
    base, size = dataclasses.replace(base, scorer=config.clip or base.scorer), config.size
    if config.dtype not in DTYPES:
        raise UserError(f"unknown dtype {config.dtype!r}; known: {', '.join(DTYPES)}")
    if unknown := set(config.memory) - set(MEMORY):
        raise UserError(f"--memory {', '.join(sorted(unknown))} is not one of {', '.join(MEMORY)}")
    if size.n < 2:
        raise UserError(f"--n {size.n} is too few prompts; give at least 2")
    if config.probe and not size.moved:
        raise UserError(
            f"--probe draws as many pictures as there are changed triggers, and --scale {size.name}"
            " has none; take quick or full"
        )
    defenses = registry.defenses.select(config.defenses)
    metrics = registry.metrics.select(config.metrics or config.scale.metrics)
    methods = {read(part)[0] for name in (*attacks, *defenses) for part in parts_of(name)}
    options = parse_overrides(config.overrides, {*methods, *metrics})
    sweeps = sweep.parse(config.sweeps, methods, options)

    def method(kind: Registry, name: str, own: dict[str, str] | None = None) -> Method:
        training = 1.0 if kind is registry.metrics else size.training
        return build(kind, name, base.settings, options.get(name, {}) | (own or {}), training)

    def variants(kind: Registry, names: list[str]) -> dict[str, tuple[Method, ...]]:
        return {
            v: tuple(method(kind, *part) for part in parts)
            for n in names
            for v, parts in sweep.expand(n, sweeps).items()
        }

    built_attacks = {
        row: m
        for name, parts in variants(registry.attacks, attacks).items()
        for row, m in rows(name, parts).items()
    }
    built_defenses = variants(registry.defenses, defenses)
    built_metrics = {m: method(registry.metrics, m) for m in metrics}
    _check_size(config, base, metrics)
    data = data or choose_data(config, base)
    config = fit_real(config, data)
    size = config.size
    scorer = scorer_fingerprint(base.scorer)
    shared = {
        "format": FORMAT,
        "base": {
            "name": config.base,
            "weights": fingerprint(base.source),
            "sampler": plain(base.sampler),
        },
        "data": data.name,
        "device": config.device.split(":")[0],
        "dtype": config.dtype,
    } | ({"memory": sorted(config.memory)} if config.memory else {})
    cells, left_out = [], _left_out(built_attacks, built_defenses)
    built_defenses = {d: parts for d, parts in built_defenses.items() if d not in left_out}
    if not built_defenses:
        lack = "; ".join(f"{d} needs {', '.join(needs)}" for d, needs in left_out.items())
        raise UserError(
            f"no defense of this run can work: {lack}; give the trigger with --trigger, or choose"
            " other --defenses"
        )
    for seed in seeds:
        for a in built_attacks:
            for d in built_defenses:
                if lacking(built_attacks[a], built_defenses[d]):
                    continue
                parts = [part.key for part in built_defenses[d]]
                cell = {
                    "shared": shared,
                    "attack": built_attacks[a].key,
                    "defense": parts,
                    "scorer": scorer,
                    "seed": seed,
                }
                cell["evaluation"] = size.evaluation
                cells.append(Cell(config.base, a, d, seed, digest(cell), cell))
    return Plan(
        config,
        base,
        data,
        tuple(seeds),
        built_attacks,
        built_defenses,
        built_metrics,
        scorer,
        cells,
        left_out,
    )


def lacking(attack: Method, defense: tuple[Method, ...]) -> tuple[str, ...]:
    """What a defense needs and this attack leaves nobody: an attack whose instance has `withheld`
    (of a checkpoint whose history is not known there is no clean model) has no cell with such a
    defense."""
    withheld = set(attack.instance.withheld)
    return tuple(
        n for n in NEEDS if n in withheld and any(n in part.entry.needs for part in defense)
    )


def _left_out(
    attacks: dict[str, Method], defenses: dict[str, tuple[Method, ...]]
) -> dict[str, tuple[str, ...]]:
    """The defenses that have no cell, and why."""
    found = {}
    for name, parts in defenses.items():
        lacks = [lacking(attack, parts) for attack in attacks.values()]
        if all(lacks):
            found[name] = lacks[0]
    return found


def choose_data(config: Config, base: Base) -> Data:
    """What `--data` names, or else the embedded world, for bases that draw pictures of its size.
    Raises UserError."""
    if config.data:
        return open_data(
            config.data,
            picture_side(base.source),
            reads(base.source),
            lambda text: print(text, file=sys.stderr),
        )
    side = picture_side(base.source)
    if side != world.RESOLUTION:
        raise UserError(
            f"{config.base} draws pictures of {side} px and those of the embedded world have"
            f" {world.RESOLUTION}: give captioned images with --data, a hub id or a folder of"
            " pictures with metadata.csv"
        )
    return WorldData()


def fit_real(config: Config, data: Data) -> Config:
    """The same with as many real images as the data has, where that is fewer than the scale's; keys
    and tables say how many."""
    have = data.count("pairs", "evaluation")
    if have is None or have >= config.size.real:
        return config
    return dataclasses.replace(config, scale=dataclasses.replace(config.scale, real=have))


def build(
    kind: Registry, name: str, family: str, overrides: dict[str, str], training: float
) -> Method:
    """A method with its options. `training` multiplies the defaults of those that scale."""
    instance = scaled(kind.build(name, family, overrides), overrides, training)
    return Method(name, instance, kind.get(name))


def parse_overrides(texts: tuple[str, ...], used: set[str]) -> dict[str, dict[str, str]]:
    """ "name.option=value" to {name: {option: value}}. A name that the run does not use is an
    error: the option would be ignored."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        name, dot, key = target.strip().rpartition(".")
        if not (equals and dot and name and key):
            raise UserError(
                f"--set {text!r} is not of the form name.option=value, such as skdcag.alpha=0.7"
            )
        if name not in used:
            raise UserError(
                f"--set {text}: {name!r} is not in this run; {suggest(name, used, 'in this run')}"
            )
        found.setdefault(name, {})[key] = value.strip()
    return found


def _check_size(config: Config, base: Base, metrics: list[str]) -> None:
    """FID's covariance is singular with fewer images than features. Asked for by name or with --n,
    that is an error; in a scale's default selection the metric says so and stays empty."""
    fids = [m for m in metrics if m == "fid" or m.startswith("fid_")]
    by_default = config.n is None and {"all", ""} & set((config.metrics or "").split(","))
    if not fids or by_default:
        return
    dimension = feature_dimension(base.scorer)
    if config.size.n < dimension:
        rest = ",".join(m for m in metrics if m not in fids)
        raise UserError(
            f"{fids[0]} needs at least {dimension} prompts (the dimension of the scorer's"
            f" features), and n is {config.size.n}: give --n {dimension}, or leave it out with"
            f" --metrics {rest or 'kid'}"
        )
