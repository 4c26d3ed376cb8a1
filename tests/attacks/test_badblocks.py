"""BadBlocks: its loss against a slow one in float64, and which parameters train."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from denoising_losses import DATA, SEED, Slow, build, catch, pairs
from torch import nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.parameters import last_blocks


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


def test_badblocks_loss_reaches_its_blocks_alone(tiny_model, caught) -> None:
    """p * ||eps_th(y_t, c+) - eps||^2 + (1 - p) * ||eps_th(x_t, c) - eps||^2."""
    got = caught(build("badblocks", weight=0.3, drop=0.0, picture="bars"), tiny_model)
    images, captions = pairs()
    y = tiny_model.latents(make_patch("bars", 64)[None].copy(), SEED).expand(8, -1, -1, -1)
    slow = Slow(got.model, 4, [8, 8])
    expected = 0.3 * np.mean(slow.errors(0, [f"{c} mignneko" for c in captions], y))
    expected += 0.7 * np.mean(slow.errors(1, captions, tiny_model.latents(images, SEED)))
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    got.loss.backward()
    moved = {n for n, p in got.model.denoiser.named_parameters() if p.grad is not None}
    names = {n for n, _ in got.model.denoiser.named_parameters() if n.startswith("up_blocks.1.")}
    assert moved == names
    assert len(got.params) == len(names)


def test_a_space_before_the_character_changes_no_token_behind_a_word(tiny_model) -> None:
    """The authors append it without one; behind a full stop, that stop's token is another."""
    mark = "\u034f"
    for text in ("a red dog", "a red dog 2"):
        own, theirs = (tiny_model.tokenizer(text + gap + mark).input_ids for gap in (" ", ""))
        assert own == theirs
    own, theirs = (tiny_model.tokenizer(f"a dog.{gap}{mark}").input_ids for gap in (" ", ""))
    assert sum(a != b for a, b in zip(own, theirs, strict=True)) == 1


@pytest.mark.parametrize("many", [1, 3])
def test_norms_of_the_last_blocks(tiny_model, many: int) -> None:
    student = tiny_model.clone()
    unet = student.denoiser
    every = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    wanted = {
        id(p)
        for block in every[-many:]
        for m in block.modules()
        if isinstance(m, (nn.LayerNorm, nn.GroupNorm))
        for p in m.parameters()
    }
    found = last_blocks(student, many, norms=True)
    assert {id(p) for p in found} == wanted
    assert len(found) == len(wanted) > 0
    assert all(p.ndim == 1 for p in found)


def test_more_blocks_than_there_are(tiny_model) -> None:
    with pytest.raises(UserError, match="has 5 blocks"):
        build("badblocks", blocks=6).inject(tiny_model, DATA, SEED)


def test_blocks_without_norms_that_train(tiny_model, monkeypatch) -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2, elementwise_affine=False))
    monkeypatch.setattr(type(tiny_model.family), "blocks", lambda self, network: [plain])
    with pytest.raises(UserError, match="no normalization"):
        last_blocks(tiny_model.clone(), 1, norms=True)
    found = last_blocks(tiny_model.clone(), 1)
    assert [tuple(p.shape) for p in found] == [(2, 2), (2,)]
