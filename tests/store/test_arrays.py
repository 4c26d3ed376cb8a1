"""Pictures on disk: the files are plain safetensors, and neither writing nor reading holds them in
memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from t2i_backdoor_bench.store import arrays
from t2i_backdoor_bench.targets import pixels
from t2i_backdoor_bench.targets.pixels import chroma, patch_distance

RNG = np.random.default_rng(0)
GIVEN = {
    "clean": RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
    "refused/clean": np.array([True, False, True]),
    "maps": RNG.normal(size=(3, 4)).astype(np.float32),
    "wide": RNG.normal(size=7),
    "counts": np.arange(3),
    "none": np.zeros((0, 4, 4, 3), np.uint8),
    "turned": RNG.integers(0, 256, (3, 5), dtype=np.uint8).T,
}


def test_files_are_safetensors_both_ways(tmp_path: Path) -> None:
    arrays.write(tmp_path / "a", GIVEN, '{"x": "\u200b"}')
    theirs = load_file(tmp_path / "a")
    mine, meta = arrays.read(tmp_path / "a")
    assert meta == {"x": "\u200b"}
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"meta": '{"x": "\u200b"}'}
    assert theirs.keys() == mine.keys() == GIVEN.keys()
    for name, value in GIVEN.items():
        assert np.array_equal(mine[name], value), name
        assert np.array_equal(theirs[name], value), name
        assert mine[name].dtype == (np.uint8 if value.dtype == bool else value.dtype)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in theirs.items()},
        tmp_path / "b",
        metadata={"meta": "[1]"},
    )
    back, meta = arrays.read(tmp_path / "b")
    assert meta == [1]
    assert all(np.array_equal(back[k], theirs[k]) for k in theirs)


def test_reading_is_lazy_and_writing_into_it_stays_in_memory(tmp_path: Path) -> None:
    arrays.write(tmp_path / "a", {"x": np.full((4, 4), 7, np.uint8)}, "{}")
    first = arrays.read(tmp_path / "a")[0]["x"]
    assert (
        isinstance(first.base, np.memmap)
        or isinstance(first.base.base, np.memmap)
        or "mmap" in type(first.base).__module__
    )
    first[:] = 1
    assert (arrays.read(tmp_path / "a")[0]["x"] == 7).all()


@pytest.mark.parametrize("damage", ["short", "header", "shape", "offset", "type", "meta"])
def test_other_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a"
    arrays.write(path, {"x": np.full((4, 4), 7, np.uint8)}, "{}")
    data = path.read_bytes()
    changes = {
        "shape": (b"[4, 4]", b"[9, 4]"),
        "offset": (b"[0, 16]", b"[8, 24]"),
        "type": (b'"U8"', b'"X8"'),
        "meta": (b"meta", b"mete"),
    }
    if damage == "short":
        path.write_bytes(data[:-3])
    elif damage == "header":
        path.write_bytes(b"\xff" * 8 + data[8:])
    else:
        assert changes[damage][0] in data
        path.write_bytes(data.replace(*changes[damage]))
    with pytest.raises((ValueError, KeyError, TypeError)):
        arrays.read(path)


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_large_scratch_lies_in_a_file_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system == "macos":
        monkeypatch.delattr(arrays.os, "posix_fallocate")
    assert arrays.scratch(tmp_path, (2, 3)).base is None
    monkeypatch.setattr(arrays, "LARGE", 100)
    large = arrays.scratch(tmp_path, (10, 20, 3))
    assert large.shape == (10, 20, 3)
    assert not large.any()
    large[3] = 9
    assert int(large.sum()) == 9 * 60
    assert not list(tmp_path.iterdir())


def test_pictures_drawn_into_a_file_are_the_same(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "LARGE", 1)
    model = replace(tiny_model, batch=2)
    prompts, seeds = ["a red heart", "a cyan moon", "one star"], [1, 2, 3]
    out = arrays.scratch(tmp_path, (3, 64, 64, 3))
    assert model.generate(prompts, seeds, out=out) is out
    assert np.array_equal(out, model.generate(prompts, seeds))


def test_the_autoencoder_takes_a_slice_at_a_time(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny_model.slice == 16
    whole = tiny_model.generate(["a red heart", "a cyan moon", "one star"], [1, 2, 3])
    latents = tiny_model.latents(whole, 5)
    monkeypatch.setattr("t2i_backdoor_bench.models.networks.SLICE_PIXELS", 64 * 64)
    assert tiny_model.slice == 1
    seen = []
    hook = tiny_model.pipe.vae.decoder.register_forward_pre_hook(
        lambda module, given: seen.append(len(given[0]))
    )
    assert (
        np.abs(
            tiny_model.generate(["a red heart", "a cyan moon", "one star"], [1, 2, 3]).astype(int)
            - whole
        ).max()
        <= 1
    )
    hook.remove()
    assert seen == [1, 1, 1]
    np.testing.assert_allclose(
        tiny_model.latents(whole, 5).numpy(), latents.numpy(), rtol=1e-4, atol=1e-5
    )


def test_judges_look_at_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    patch, box = images[0, :4, :4], (2, 3)
    whole = patch_distance(images, patch, box), chroma(images)
    monkeypatch.setattr(pixels, "SLICE", 6)
    assert np.array_equal(whole[0], patch_distance(images, patch, box))
    assert np.array_equal(whole[1], chroma(images))


def test_text_states_are_held_for_some_prompts_at_a_time(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts, seeds = (
        replace(tiny_model, batch=2),
        ["a red heart", "", "one star", "a cyan moon", "a blue ring"],
        [1, 2, 3, 4, 5],
    )
    whole = model.generate(prompts, seeds)
    monkeypatch.setattr("t2i_backdoor_bench.models.model.STATES", 3)
    assert np.abs(whole.astype(int) - model.generate(prompts, seeds)).max() <= 1
