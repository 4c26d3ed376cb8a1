"""Several backdoors in one model: trained once, one after the other, and each judged and told to
defenses by itself."""

from __future__ import annotations

import json

import pytest
import torch
from fakes import CALLS, change, config, fakes  # noqa: F401 - fixtures
from helpers import different, weights

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

BOTH = "fake_attack+fake_attack_two[trigger=brelvo]"


def test_each_backdoor_is_a_row_and_they_share_one_model(config, tiny):
    both = change(config, attacks=f"fake_attack,{BOTH}", metrics="asr,drift")
    assert runner.run(both) == 0
    assert CALLS.count("attack 0") == 1 + 2, "the rows of a composition train it once"
    found = {(r.cell.attack, r.cell.defense): r for r in stored_records(Store(both.folder))}
    assert {a for a, _ in found} == {"fake_attack", f"{BOTH}#1", f"{BOTH}#2"}
    triggers = [found[f"{BOTH}#{i}", "fake_defense"].backdoor["trigger"]["text"] for i in (1, 2)]
    assert triggers == ["mignneko", "brelvo"]
    assert found[f"{BOTH}#1", "none"].cost["images_attack"] == 16
    made = plan(both)
    key = made.attack_key(f"{BOTH}#1", 0)
    assert key == made.attack_key(f"{BOTH}#2", 0) != made.attack_key("fake_attack", 0)
    store = Store(both.folder)
    base, attacked = (
        load_base(tiny),
        load_base(tiny).with_weights(store.find_file(f"models/{key}.safetensors")),
    )
    moved = attacked.denoiser.conv_out.bias - base.denoiser.conv_out.bias
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5 + 1.0))
    manifest = store.read_record("run")
    assert set(manifest["attacks"]) == {"fake_attack", f"{BOTH}#1", f"{BOTH}#2"}


def test_the_order_is_in_the_key_and_the_parts_options_are(config):
    def key(attacks: str) -> str:
        made = plan(change(config, attacks=attacks))
        return made.attack_key(next(iter(made.attacks)), 0)

    other = "fake_attack_two[trigger=brelvo]+fake_attack"
    assert (
        len({key(BOTH), key(other), key(BOTH.replace("brelvo", "latte")), key("fake_attack")}) == 4
    )


def test_two_backdoors_of_one_trigger_are_refused_in_one_line(tiny, tmp_path, capsys):
    flags = [
        "--attacks",
        "fake_attack+fake_attack_two",
        "--defenses",
        "none",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--metrics",
        "asr",
    ]
    assert run_bench.main([*flags, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "fake_attack+fake_attack_two have the trigger 'mignneko'" in said
    assert "fake_attack_two[trigger=WORD]" in said


def test_a_checkpoint_is_no_part_of_a_composition(config):
    with pytest.raises(UserError, match="a whole model"):
        plan(change(config, attacks="checkpoint[trigger=x]+fake_attack"))


def test_a_closed_form_and_a_text_encoder_attack_in_one_model(config, tiny_model):
    """Each edits what it edits alone, the second on the model that the first left."""
    made = plan(
        change(
            config,
            attacks="eviledit[prompts=4]+rickrolling_tpa[steps=2,prompts=6,clean=2,poisoned=2,trigger=o]",
        )
    )
    first, second = next(iter(made.attacks.values())).instance.attacks
    both = next(iter(made.attacks.values())).instance.inject(tiny_model, WorldData(), 0)
    alone = first.inject(tiny_model, WorldData(), 0)
    changed = different(weights(both), weights(alone))
    assert changed
    assert all(k.startswith("text_encoder.") for k in changed), (
        "the text encoder's attack leaves the U-Net as it was"
    )
    assert any(k.startswith("unet.") for k in different(weights(both), weights(tiny_model)))
    assert both.info["parameters"] == max(
        alone.info["parameters"], second.inject(tiny_model, WorldData(), 0).info["parameters"]
    )
    json.dumps(both.info)
