"""The same run on several base models, `--base A,B`: a run folder for each, in one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from t2i_backdoor_bench.contract import Data, UserError
from t2i_backdoor_bench.running.settings import Config

TIME_UP, INTERRUPTED = STOPPED = (75, 130)  # of `running.ending`, whose import takes a second


def each_base(config: Config) -> dict[str, Config]:
    """The settings of the run on each base, by the base's name, which is that of its folder; empty
    where one base is named. Raises UserError for bases that cannot stand beside each other."""
    if "," not in config.base or Path(config.base).exists():
        return {}
    bases = [base.strip() for base in config.base.split(",")]
    found = {Path(base).name: base for base in bases}
    if {"", ".."} & set(found) or len(found) < len(bases):
        raise UserError(f"--base {config.base}: give each base once, and no two of one name")
    if config.models:
        raise UserError("--model is taken over one base; name that one with --base")
    out = config.out or Path("results") / f"bases-{config.scale.name}"
    if (out / "run.json").exists():
        raise UserError(f"{out} is the folder of a run on one base; choose another with --out")
    return {name: replace(config, base=base, out=out / name) for name, base in found.items()}


def check_each(configs: Mapping[str, Config], data: Data | None = None) -> None:
    """Raise UserError where the run on one of the bases would be refused: before the first."""
    from t2i_backdoor_bench.running.validate import checked  # imports torch

    for name, config in configs.items():
        try:
            lines, bad = checked(config, data)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if bad:
            raise UserError(f"{name}: {next(line for line in lines if line.startswith('refused'))}")


def run_each(configs: Mapping[str, Config], run: Callable[[Config], int]) -> int:
    """`run` on each base, in this order. Returns the largest exit status. The time limit is of all
    of them; an interrupt and its end leave the bases that follow."""
    begun, status = time.time(), 0
    for config in configs.values():
        if config.time_limit is not None:
            left = config.time_limit - (time.time() - begun)
            if left <= 0:
                return TIME_UP
            config = replace(config, time_limit=left)
        one = run(config)
        if one in STOPPED:
            return one
        status = max(status, one)
    return status
