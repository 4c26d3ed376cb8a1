"""What describes a run: `run.json`, `run.yaml`, and the protocol in every record."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from t2i_backdoor_bench.contract import PROTOCOL, Record, citations, registry
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.models.catalog import scheduler_class
from t2i_backdoor_bench.models.sampler import NAMES
from t2i_backdoor_bench.running.controls import chosen_defenses
from t2i_backdoor_bench.running.cost import machine
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.yaml_file import to_yaml
from t2i_backdoor_bench.store.atomic import write_text
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.provenance import current_code
from t2i_backdoor_bench.store.records import read_plan


def directions(plan_: Plan) -> dict[str, dict[str, Any]]:
    """How to read each metric of the run (`Entry.reading`)."""
    return {name: metric.entry.reading for name, metric in plan_.metrics.items()}


def protocol(plan_: Plan) -> dict[str, Any]:
    """How the numbers were measured: what a reader needs to compare them with others."""
    config, size, sampler = plan_.config, plan_.config.size, plan_.base.sampler
    spec = plan_.base.scorer
    return {
        "protocol": PROTOCOL,
        "base": config.base,
        "family": plan_.base.settings,
        "scale": size.name,
        "data": plan_.data.name,
        "prompts": f"{plan_.data.name} evaluation split",
        "evaluation": size.evaluation,
        "training": size.training,
        "sampler": {
            "name": scheduler_class(plan_.base, sampler) or NAMES[sampler.scheduler],
            "steps": sampler.steps,
            "guidance": sampler.guidance,
        },
        "scorer": Path(spec).name if Path(spec).is_dir() else spec,
        "scorer_fingerprint": plan_.scorer[:16],
        "device": config.device.split(":")[0],
        "dtype": config.dtype,
        "intervals": (
            "95 %: Wilson for proportions, bootstrap for means; over several seeds Student's t"
            " between them; over several attacks that of a crossed design (attack x seed)"
        ),
    }


def papers(plan_: Plan) -> list[dict[str, Any]]:
    """The papers of all methods of the run, for the report."""
    entries = [
        registry.attacks.get(name) for m in plan_.attacks.values() for name in m.name.split("+")
    ]
    entries += [
        registry.defenses.get(part.name) for parts in plan_.defenses.values() for part in parts
    ]
    entries += [registry.metrics.get(name) for name in plan_.metrics]
    found = citations.of_run({(e.cls, e.name): e for e in entries}.values())
    return [{"short": p.short, "methods": names, "bibtex": p.bibtex} for p, names in found]


def write_manifest(
    plan_: Plan,
    store: Store,
    results: Mapping[str, Record],
    command: Mapping[str, Any] | None = None,
) -> None:
    """Write `run.json`, which describes the run, and `run.yaml`, which repeats it. A finished
    `command` is added to the earlier ones in `commands`."""
    earlier = read_plan(store)
    commands = [*earlier.get("commands", []), *([command] if command else [])]
    made = description(plan_, results) | {"commands": commands}
    if command and not command["cells_made"]:  # what made the cells is not what looked at them
        made |= {k: earlier[k] for k in ("versions", "commit", "hardware") if k in earlier}
    store.write_record("run", made)
    write_text(store.path("run.yaml"), yaml_of(plan_))


def yaml_of(plan_: Plan) -> str:
    """The text of `run.yaml`: the settings of a run, with names for groups."""
    config = plan_.config
    names = {
        "attacks": registry.attacks.select(config.attacks),
        "defenses": chosen_defenses(config),
    }
    return to_yaml(config, names | {"seeds": list(plan_.seeds), "out": str(config.folder)})


def description(plan_: Plan, results: Mapping[str, Record]) -> dict[str, Any]:
    """The settings of a run, its methods and cells, the software and hardware, and how reliable the
    judges are (from `results`, records by key)."""
    config, n = plan_.config, plan_.config.n or plan_.config.scale.n
    code, judges = current_code(), {}
    for cell in plan_.cells:
        found = results.get(cell.key)
        if found is not None and found.judge:
            judges[f"{cell.attack} seed {cell.seed}"] = found.judge
    example = plan_.data.prompts("evaluation", min(3, config.size.n), plan_.seeds[0])
    asked = {"out": str(config.folder), "seeds": list(plan_.seeds), "n": n}
    return {
        "config": plain(config) | asked,
        "protocol": protocol(plan_),
        "base": plan_.shared.get("base", {}),
        "attacks": {name: m.key["options"] for name, m in plan_.attacks.items()},
        "defenses": {
            name: {p.name: p.key["options"] for p in parts}
            for name, parts in plan_.defenses.items()
        },
        "metrics": {name: m.key["options"] | m.entry.reading for name, m in plan_.metrics.items()},
        "directions": directions(plan_),
        "citations": papers(plan_),
        "needs": {name: list(plan_.needs(name)) for name in plan_.defenses},
        "cells": [
            {"key": c.key, "attack": c.attack, "defense": c.defense, "seed": c.seed}
            for c in plan_.cells
        ],
        "judges": judges,
        "example_prompts": [p.text for p in example],
        "versions": code["versions"],
        "commit": code["commit"] + "+" * code["dirty"],
        "hardware": hardware(config.device),
    }


def hardware(device: str) -> dict[str, Any]:
    """The processor, memory and system of this machine, and its GPU if `device` is one."""
    found: dict[str, Any] = {
        "cpu": machine("cpu"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        found["gpu"] = machine(device)
    return found
