"""The committed bases beside `shapes`: they are small, of classes of their own, and draw what they
are asked for."""

import json

import numpy as np
import pytest

from t2i_backdoor_bench.data.splits import world_prompt
from t2i_backdoor_bench.models.catalog import BASES, load_base
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.shapes import BASE_FOLDERS, SCORER
from t2i_backdoor_bench.shapes.evaluate import ATTRIBUTES, accuracies, held_out_scenes

OTHERS = [name for name in BASE_FOLDERS if name in BASES and name != "shapes"]


@pytest.fixture(scope="module", params=OTHERS)
def name(request) -> str:
    return request.param


def test_it_is_small_and_holds_safetensors_alone(name):
    files = [f for f in BASE_FOLDERS[name].rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".bin", ".ckpt", ".pt", ".pth", ".pkl")]
    most = 16e6 if name == "shapes-b" else 15e6  # shapes-b is as large as shapes
    assert sum(f.stat().st_size for f in files if f.suffix == ".safetensors") <= most


def test_it_draws_what_it_is_asked_for(name):
    rng = np.random.default_rng(8)
    prompts = [world_prompt(s, rng) for s in held_out_scenes(48, rng)]
    drawn = load_base(name).generate([p.text for p in prompts], range(48))
    right = accuracies(drawn, prompts, Scorer.load(SCORER))
    assert min(right[k] for k in ATTRIBUTES) >= 80, right  # of 48; the card has more


def test_its_card_has_the_measured_figures_and_says_what_is_of_shapes(name):
    card = json.loads((BASE_FOLDERS[name] / "card.json").read_text())
    text = (BASE_FOLDERS[name] / "README.md").read_text()
    for row in ("generated", "generated, random rare prefix"):
        assert f"{card[row]['shape']:.1f}" in text
    assert "those of `shapes`, bit for" in text
