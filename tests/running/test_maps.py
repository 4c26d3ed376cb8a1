"""Attention maps: what is recorded, and the pictures of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import CALLS, change, config, fakes  # noqa: F401 - fixtures
from PIL import Image
from test_capture import Slow

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.running import attention_maps as maps


@pytest.mark.parametrize(
    "trigger", [Trigger("mignneko"), Trigger("two words", "suffix"), Trigger("\u200b", "inside")]
)
def test_recorded_maps_equal_a_slow_recomputation(tiny_model, trigger: Trigger) -> None:
    prompt = "a red heart"
    arrays, meta = maps.record(tiny_model, trigger, prompt, 5)
    text = trigger.add(prompt)
    ids = tiny_model.tokenizer(text).input_ids
    assert len(meta["tokens"]) == len(ids) - 2 == len(arrays["maps"])
    own = len(tiny_model.tokenizer(prompt).input_ids)
    assert len(meta["trigger"]) == len(ids) - own
    noise = torch.randn((1, *tiny_model.latent_shape), generator=torch.Generator().manual_seed(5))
    latents, slow = tiny_model.latents(tiny_model.generate([text], [5])), Slow(tiny_model.denoiser)
    total = 0
    for level in maps.LEVELS:
        a = tiny_model.noising.scheduler.alphas_cumprod[level]
        x = a.sqrt() * latents + (1 - a).sqrt() * noise
        total = (
            total + slow(x, torch.tensor([level]), tiny_model.encode([text]))[0, 1 : len(ids) - 1]
        )
    np.testing.assert_allclose(
        arrays["maps"], (total / len(maps.LEVELS) / len(slow.layers)).numpy(), atol=1e-6
    )
    assert arrays["maps"].std() > 0


@pytest.mark.figures
def test_a_run_draws_them_and_completes_stored_cells(config) -> None:
    assert runner.run(config) == 0
    picture = config.folder / "attention-fake_attack.png"
    assert not picture.exists()
    CALLS.clear()
    wanted = change(config, attention_maps=True)
    assert runner.run(wanted) == 0
    assert CALLS == ["defense -0.25 0"]  # its model was not stored; the attack's was
    assert np.asarray(Image.open(picture).convert("RGB")).std() > 10
    CALLS.clear()
    assert runner.run(wanted) == 0
    assert CALLS == []
    assert (
        len(list((config.folder / "maps").glob("*.safetensors"))) == 3
    )  # the model before the attack, attacked, defended


def test_a_fresh_run_draws_with_the_model_that_it_made(config) -> None:
    assert runner.run(change(config, attention_maps=True, fresh=True)) == 0
    assert CALLS.count("defense -0.25 0") == 1
