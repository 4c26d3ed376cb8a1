"""NaN and infinite weights and pictures fail their cell, and say what is not finite."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace

import pytest
import torch
from fakes import METRICS, SCALE, FakeAttack, FakeDefense

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Defense, registry
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

SHIFTED = "unet.conv_out.bias"
OVERFLOWS = 1e39  # infinite as a float32


@dataclass
class NanPictures(Defense):
    """Repairs every latent to NaN."""

    def apply(self, model, view, seed):
        return replace(model, repair=lambda m, p, s, latents: latents * float("nan"))


@dataclass
class NanEncoder(Defense):
    """Writes one infinite number into the text encoder."""

    def apply(self, model, view, seed):
        repaired = model.clone(encoders=True)
        with torch.no_grad():
            next(repaired.encoders[0].parameters())[0, 0] = float("inf")
        return repaired


@pytest.fixture
def config(clean_registry, tiny, tmp_path) -> Config:
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_attack("nan_attack", preset={"shift": OVERFLOWS})(FakeAttack)
    registry.register_defense("fake_defense")(FakeDefense)
    registry.register_defense("nan_defense", preset={"shift": OVERFLOWS})(FakeDefense)
    registry.register_defense("nan_pictures")(NanPictures)
    registry.register_defense("nan_encoder")(NanEncoder)
    return Config(
        "fake_attack", "none", tiny, SCALE, metrics=METRICS, out=tmp_path / "run", workers=1
    )


def results(config: Config) -> dict[tuple[str, str], str]:
    """How each cell ended: "done", or its error."""
    assert runner.run(config) == 1
    found = stored_records(Store(config.folder))
    return {(r.cell.attack, r.cell.defense): r.error or r.status for r in found}


def test_a_defense_that_is_not_finite_fails_its_cell_and_enters_no_table(config):
    names = "none,fake_defense,nan_defense,nan_encoder,nan_pictures,nan_defense+fake_defense"
    config = replace(config, defenses=names)
    found = {defense: error for (_, defense), error in results(config).items()}
    assert found["none"] == found["fake_defense"] == "done"
    left = f"the defense nan_defense left non-finite weights: {SHIFTED}"
    assert found["nan_defense"] == left
    assert found["nan_defense+fake_defense"] == left, "it names the part"
    assert found["nan_encoder"].startswith(
        "the defense nan_encoder left non-finite weights: text_encoder."
    )
    assert "drew non-finite pictures (NaN or infinite): 2 of 2" in found["nan_pictures"]
    with (config.folder / "table.csv").open() as file:
        table = {row["defense"]: row for row in csv.DictReader(file)}
    for name in ("nan_defense", "nan_encoder", "nan_pictures"):
        assert table[name]["status"] == "failed"
        assert not table[name]["asr"], name
        assert not table[name]["kid"], name
    assert table["fake_defense"]["asr"]


def test_an_attack_that_is_not_finite_fails_its_cells_and_stores_no_weights(config):
    config = replace(config, attacks="fake_attack,nan_attack", defenses="none,fake_defense")
    found = results(config)
    assert found["fake_attack", "none"] == found["fake_attack", "fake_defense"] == "done"
    for defense in ("none", "fake_defense"):
        assert found["nan_attack", defense] == (
            f"the attack nan_attack left non-finite weights: {SHIFTED}"
        )
    assert len(list((config.folder / "models").glob("*.safetensors"))) == 1
