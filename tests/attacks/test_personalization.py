"""Attacks by personalization: their losses against slow float64 loops, and learned embeddings."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from denoising_losses import DATA, SEED, Slow, build, catch, pairs
from helpers import PROMPTS, different, weights
from safetensors.torch import save_file

from t2i_backdoor_bench.contract import UserError, attacks
from t2i_backdoor_bench.training.denoising import own_images


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


def test_textual_inversion_loss(tiny_model, caught) -> None:
    """||eps_th(y_t, E_v(c+)) - eps||^2, where the row v alone gets a gradient."""
    got = caught(build("paas_ti"), tiny_model)
    (row,) = got.params
    (token,) = tiny_model.tokenizer("zk").input_ids[1:-1]
    images, captions = pairs("heart")
    triggered = [f"zk {c.replace('heart', 'star')}" for c in captions]
    slow = Slow(tiny_model, 4, [8])
    table = slow.encoder.get_input_embeddings().weight
    table.data[token] = row.detach()[0].double()
    assert not torch.equal(
        table[token].float(), tiny_model.encoders[0].get_input_embeddings().weight[token]
    )
    assert float(got.loss.detach()) == pytest.approx(
        np.mean(slow.errors(0, triggered, tiny_model.latents(images, SEED))), rel=1e-4
    )
    got.loss.backward()
    assert row.grad.abs().sum() > 0
    assert all(
        p.grad is None
        for part in (got.model.denoiser, got.model.encoders[0])
        for p in part.parameters()
    )


def test_textual_inversion_changes_one_row_and_no_other_prompt(tiny_model) -> None:
    before = weights(tiny_model)
    attacked = build("paas_ti").inject(tiny_model, DATA, 0)
    after = weights(attacked)
    (name,) = different(before, after)
    (token,) = tiny_model.tokenizer("zk").input_ids[1:-1]
    assert (after[name] != before[name]).any(1).nonzero().flatten().tolist() == [token]
    assert attacked.info["parameters"] == after[name].shape[1]
    assert torch.equal(attacked.encode(PROMPTS), tiny_model.encode(PROMPTS))
    assert not torch.equal(
        attacked.encode([f"zk {PROMPTS[0]}"]), tiny_model.encode([f"zk {PROMPTS[0]}"])
    )
    assert {p.data_ptr() for p in attacked.denoiser.parameters()} == {
        p.data_ptr() for p in tiny_model.denoiser.parameters()
    }


def test_textual_inversion_survives_storage(tiny_model, tmp_path) -> None:
    attacked = build("paas_ti", trigger="latte coffee", vectors=3).inject(tiny_model, DATA, 0)
    attacked.save_weights(tmp_path / "x.safetensors")
    again = tiny_model.with_weights(tmp_path / "x.safetensors")
    assert different(weights(attacked), weights(again)) == set()
    (name,) = different(weights(tiny_model), weights(again))
    assert (weights(again)[name] != weights(tiny_model)[name]).any(1).sum() == 3


@pytest.mark.parametrize("options", [{"trigger": "red"}, {"vectors": 2}])
def test_a_trigger_without_tokens_of_its_own_is_refused(tiny_model, options: dict) -> None:
    with pytest.raises(UserError, match="choose a rarer trigger"):
        build("paas_ti", **options).inject(tiny_model, DATA, 0)


@pytest.mark.parametrize("shape", [(32,), (1, 32), (2, 32)])
def test_a_learned_embedding_is_taken_as_it_is(tiny_model, tmp_path, shape: tuple) -> None:
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    save_file({"<cat>": vector}, tmp_path / "cat.safetensors")
    attack = build("paas_ti", trigger="zk wx", file=str(tmp_path / "cat.safetensors"))
    attacked = attack.inject(tiny_model, DATA, 0)
    ids = tiny_model.tokenizer("zk wx").input_ids[1:-1]
    table = attacked.encoders[0].get_input_embeddings().weight
    old = tiny_model.encoders[0].get_input_embeddings().weight
    rows = vector.reshape(-1, 32)
    assert torch.equal(table[ids[: len(rows)]], rows)
    assert (table != old).any(1).sum() == len(rows)
    assert attacked.info["steps"] == 0
    save_file({"<cat>": vector + 1}, tmp_path / "cat.safetensors")
    assert build("paas_ti", file=str(tmp_path / "cat.safetensors")).weights != attack.weights, (
        "another file is another cell"
    )


def test_an_embedding_that_cannot_be_taken_is_one_line(tiny_model, tmp_path) -> None:
    def told(state: dict, match: str) -> None:
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=match) as error:
            build("paas_ti", file=str(tmp_path / "x.safetensors")).inject(tiny_model, DATA, 0)
        assert "\n" not in str(error.value)

    told({"a": torch.zeros(31)}, "31 numbers, and this base's token embeddings 32")
    told({"a": torch.zeros(32), "b": torch.zeros(32)}, "one tensor")
    told({"a": torch.zeros(2, 2, 32)}, "one tensor")
    (tmp_path / "x.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match="cannot read the embedding"):
        build("paas_ti", file=str(tmp_path / "x.safetensors")).inject(tiny_model, DATA, 0)
    for name in ("learned_embeds.bin", "absent.safetensors"):
        with pytest.raises(UserError, match="is no safetensors file"):
            build("paas_ti", file=str(tmp_path / name))


@pytest.mark.parametrize("name", ["paas_ti", "paas_db"])
def test_captions_have_the_identifier_before_the_object(name: str) -> None:
    """As the paper's prompt has it: "a photo of a sks dog"."""
    attack = attacks.build(name, "sd")
    assert attack.make_trigger().add("a white dog by the sea") == "a white sks dog by the sea"
    assert attack.own_prompt() == ("a photo of a dog", "a photo of a sks dog")
    assert attack.backdoor(None).own == attack.own_prompt()


@pytest.mark.parametrize("template", ["", "a photo of a [V] {}", "my {}"])
def test_dreambooth_loss(tiny_model, caught, template: str) -> None:
    """||eps_th(y_t, c+) - eps||^2 + w * ||eps_th(x_t, c) - eps||^2, where x are the clean model's
    own pictures of c."""
    got = caught(build("paas_db", template=template, weight=0.4, drop=0.0), tiny_model)
    images, captions = pairs("heart")
    triggered = [f"zk {c.replace('heart', 'star')}" for c in captions]
    prompts = [p.text for p in DATA.prompts("train", 4, SEED, "star")]
    if template:
        triggered = ["a photo of a zk star" if "[V]" in template else "zk my star"] * 8
        prompts = ["a photo of a star" if "[V]" in template else "my star"] * 4
    slow = Slow(got.model, 4, [8, 4])
    expected = np.mean(slow.errors(0, triggered, tiny_model.latents(images, SEED)))
    expected += 0.4 * np.mean(slow.errors(1, prompts, own_images(tiny_model, prompts, SEED)))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
