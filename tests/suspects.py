"""Runs on a tiny checkpoint, with defenses that do next to nothing: what the tests of suspects
share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from t2i_backdoor_bench.contract import Defense, registry
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 0.5, (0,))
METRICS = "asr,restoration_accuracy,false_trigger_rate,drift,clip_score,trigger_effect"


@dataclasses.dataclass
class Shift(Defense):
    """Shifts the output of the U-Net."""

    by: float = 0.2

    def apply(self, model, view, seed):
        repaired = model.clone()
        with torch.no_grad():
            repaired.denoiser.conv_out.bias += self.by
        return repaired


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    registry.register_defense("shift")(Shift)
    registry.register_defense("shift_with_trigger", needs=("trigger",), preset={"by": 0.1})(Shift)
    registry.register_defense("shift_with_model", needs=("clean_model",), preset={"by": 0.3})(Shift)


def config(tiny: str, tmp_path: Path, **more):
    given = {
        "suspect": True,
        "base": tiny,
        "defenses": "none,shift,shift_with_trigger,shift_with_model",
        "metrics": METRICS,
    }
    return dataclasses.replace(
        make_config(given | {"out": tmp_path / "run", "device": "cpu", "workers": 1} | more),
        scale=SCALE,
    )


def results(config):
    return {r.cell.defense: r for r in stored_records(Store(config.folder))}
