"""Suites: runs and studies that have a name. Each is a file of settings, `suites/NAME.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.running.yaml_file import read_yaml

FOLDER = Path(__file__).parent / "suites"


def suites() -> dict[str, str]:
    """The names of all suites, each with its first line, which says what it asks."""
    files = sorted(FOLDER.glob("*.yaml"))
    return {f.stem: f.read_text("utf-8").partition("\n")[0].removeprefix("# ") for f in files}


def read_suite(name: str) -> dict[str, Any]:
    """The settings of a suite, with the names of the flags; "-" in the name is as good as "_". Its
    results lie in results/run-NAME unless a flag says otherwise. Raises UserError."""
    known, name = suites(), name.replace("-", "_")
    if name not in known:
        raise UserError(f"--suite {name!r} is unknown; {suggest(name, known, 'known')}")
    return {"out": f"results/run-{name}"} | read_yaml(FOLDER / f"{name}.yaml")
