"""A small finished run, and forged copies of it: what the tests of `verify` share."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_SAMPLER
from methods import SCALE, Back, Shift

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.models import catalog
from t2i_backdoor_bench.report.changed import changed_files
from t2i_backdoor_bench.running import verify as checker
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config

METRICS = "asr,kid,clip_score,seconds"


@pytest.fixture(scope="module")
def finished(
    tiny_base: Path, tiny_scorer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Config]:
    """A finished run of one attack, without a defense and with one, with three seeds. It is made
    once for all test files, and not to be changed."""
    folder = tmp_path_factory.getbasetemp() / "finished" / "run"
    base = catalog.Base(str(tiny_base), "shapes", TINY_SAMPLER, 16, str(tiny_scorer))
    scale = dataclasses.replace(SCALE, seeds=(0, 1, 2))
    kinds = (registry.attacks, registry.defenses, registry.metrics)
    for kind in kinds:
        kind.load()
    before = [dict(kind.entries) for kind in kinds]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.BASES, "tiny", base)
        patch.setitem(SCALES, SCALE.name, scale)
        registry.register_attack("shift_attack")(Shift)
        registry.register_defense("shift_back", needs=("trigger",))(Back)
        config = Config(
            "shift_attack", "none,shift_back", "tiny", scale, metrics=METRICS, out=folder, workers=1
        )
        if not (folder / "report.html").is_file():
            assert command.run(config, show=False) == 0
        yield config
        for kind, entries in zip(kinds, before, strict=True):
            kind.entries = entries


@dataclass
class Forger:
    """A copy of a run folder with its records, which can be changed and written again, with
    checksums that fit. `cells` are the payloads of the records by the name of their file, `keys`
    those names by defense and seed."""

    folder: Path
    manifest: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    keys: dict[tuple[str, int], str]

    def record(self, defense: str = "shift_back", seed: int = 0) -> dict[str, Any]:
        return self.cells[self.keys[defense, seed]]

    def every(self, change: Callable[[dict[str, Any]], object]) -> None:
        for payload in self.cells.values():
            change(payload)

    def write(self) -> Path:
        for path in (self.folder / "cells").glob("*.json"):
            path.unlink()
        save(self.folder / "run.json", self.manifest)
        for key, payload in self.cells.items():
            save(self.folder / "cells" / f"{key}.json", payload)
        return self.folder


def save(path: Path, payload: Any) -> None:
    path.write_text(json.dumps({"sha256": digest(payload), "payload": payload}))


def read(path: Path) -> Any:
    return json.loads(path.read_text())["payload"]


@pytest.fixture
def forger(finished: Config, tmp_path: Path) -> Forger:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "copy"))
    cells = {path.stem: read(path) for path in (folder / "cells").glob("*.json")}
    keys = {(c.defense, c.seed): c.key for c in plan(finished).cells}
    return Forger(folder, read(folder / "run.json"), cells, keys)


@dataclass
class Verified:
    """What `verify` said of a folder. `drawn` counts the cells that it made again."""

    status: int
    text: str
    drawn: int


@pytest.fixture
def verified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Verified]:
    """Verify a folder; without `tables`, its tables and pages are not looked at."""
    real, drawn = checker.make_cell, []

    def make_cell(*args: Any) -> Any:
        drawn.append(1)
        return real(*args)

    monkeypatch.setattr(checker, "make_cell", make_cell)

    def check(folder: Path, tables: bool = False, **flags: bool) -> Verified:
        capsys.readouterr()
        drawn.clear()
        status = checker.verify(folder, changed_files if tables else lambda store: [], **flags)
        return Verified(status, capsys.readouterr().out, len(drawn))

    return check
