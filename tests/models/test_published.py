"""Models as they are published: parts, changed weights and learned words over a whole base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY_SAMPLER
from helpers import different, weights
from safetensors.torch import load_file, save_file

import run_bench
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models import catalog
from t2i_backdoor_bench.models.catalog import find_base, load_base, with_over
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.published.asked import read_asked
from t2i_backdoor_bench.models.published.over import take_over

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
TEXT = Path("text_encoder") / "model.safetensors"


@pytest.fixture
def changed(tiny_base: Path, tmp_path: Path) -> Path:
    """A folder like the tiny base, with other numbers in U-Net and text encoder."""
    folder = tmp_path / "changed"
    shutil.copytree(tiny_base, folder)
    for part in (UNET, TEXT):
        save_file({k: v + 0.5 for k, v in load_file(folder / part).items()}, folder / part)
    return folder


def over(path: Path | str, tiny: str) -> T2IModel:
    return load_base(tiny, over=take_over([str(path)], find_base(tiny).source, tiny))


def refused(path: Path | str, tiny: str) -> str:
    with pytest.raises(UserError) as caught:
        take_over([str(path)], find_base(tiny).source, tiny)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_part_takes_the_place_of_the_bases(changed, tiny, tmp_path, part, bare) -> None:
    place = tmp_path / "part" if bare else tmp_path / "some" / part
    shutil.copytree(changed / part, place)
    path = place if bare else place.parent
    before, after = weights(load_base(tiny)), weights(over(path, tiny))
    # the mean of every tensor has moved by 0.5
    assert different(before, after) == {k for k in before if k.startswith(f"{part}.")}
    moved = next(k for k in different(before, after) if k.endswith(".bias"))
    assert torch.allclose(after[moved], before[moved] + 0.5)
    notes = take_over([str(path)], find_base(tiny).source, tiny).notes
    other = "text_encoder" if part == "unet" else "unet"
    assert part in notes[0]
    assert notes[1].startswith(f"all else comes from the base {tiny}: ")
    assert other in notes[1]
    assert part not in notes[1].split(": ")[1].split(", ")


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_changed_weights_of_one_file_take_their_places(tiny_base, tiny, tmp_path, prefix) -> None:
    state = load_file(tiny_base / UNET)
    some = {f"{prefix}{k}": v * 2 for k, v in state.items() if "attn2" in k}
    save_file(some, tmp_path / "edited.safetensors")
    before = weights(load_base(tiny))
    for path in (tmp_path, tmp_path / "edited.safetensors"):  # the folder with the file is the same
        after = weights(over(path, tiny))
        assert different(before, after) == {f"unet.{k}" for k in state if "attn2" in k}
        name = next(k for k in after if "attn2.to_v" in k)
        assert torch.equal(after[name], before[name] * 2)


def test_tensors_of_two_parts_in_one_file(changed, tiny, tmp_path) -> None:
    both = {f"unet.{k}": v for k, v in load_file(changed / UNET).items() if "conv_out" in k}
    both |= {f"text_encoder.{k}": v for k, v in load_file(changed / TEXT).items() if "final" in k}
    save_file(both, tmp_path / "two.safetensors")
    moved = different(weights(load_base(tiny)), weights(over(tmp_path / "two.safetensors", tiny)))
    assert len(moved) == 4
    assert {name.partition(".")[0] for name in moved} == {"unet", "text_encoder"}


def without_attn2(state: dict) -> dict:
    return {k: v for k, v in state.items() if "attn2" not in k}


def with_prefix(state: dict) -> dict:
    return {f"module.{k}": v for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_attn2, ["such as", "attn2", "incomplete"]),
        (with_prefix, ["such as module.", "prefix module.", "several GPUs"]),
        (lambda s: s | {"extra.weight": torch.zeros(2)}, ["1 of", "extra.weight", "another model"]),
        (
            lambda s: {k: v[..., :1].contiguous() if v.ndim == 2 else v for k, v in s.items()},
            ["have other shapes", "another model"],
        ),
    ],
)
def test_keys_that_do_not_fit_are_one_line(
    changed: Path, tiny: str, change: Callable, said: list[str]
) -> None:
    save_file(change(load_file(changed / UNET)), changed / UNET)
    many = len(load_file(changed / UNET))
    for path in (changed, changed / "unet"):
        line = refused(path, tiny)
        assert all(text in line for text in said)
    if change is with_prefix:
        assert f"{many} of {many} tensors" in line


@pytest.mark.parametrize("change", [without_attn2, with_prefix])
def test_of_a_whole_base_too_with_exit_2(changed, change, tmp_path, capsys, monkeypatch) -> None:
    wanted = len(load_file(changed / UNET))
    save_file(change(load_file(changed / UNET)), changed / UNET)
    held = sum("attn2" not in k or change is with_prefix for k in load_file(changed / UNET))
    base = catalog.Base(str(changed), "shapes", TINY_SAMPLER, 8, catalog.BASES["shapes"].scorer)
    monkeypatch.setitem(catalog.BASES, "broken", base)
    asked = ["--base", "broken", "--suspect", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert run_bench.main([*asked, "--scale", "smoke", "--defenses", "none"]) == 2
    line = capsys.readouterr().err
    absent = wanted if change is with_prefix else wanted - held
    assert f"{absent} of its {wanted} tensors are in none of its files" in line
    assert ("prefix module." in line) == (change is with_prefix)
    assert "Traceback" not in line


def test_numbers_that_are_none_name_file_and_tensor(changed: Path, tiny: str) -> None:
    state = load_file(changed / UNET)
    state["conv_out.bias"][0] = float("nan")
    save_file(state, changed / UNET)
    assert f"{changed / UNET} holds non-finite weights (NaN or infinite) in conv_out.bias" in (
        refused(changed / "unet", tiny)
    )


def test_a_network_that_computes_otherwise_is_refused(changed: Path, tiny: str) -> None:
    file = changed / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"act_fn": "gelu"}))
    assert "sets act_fn to 'gelu'" in refused(changed / "unet", tiny)


def test_the_rules_of_trust_hold_for_parts(changed: Path, tiny: str, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(changed / "unet", part)
    config = part / "config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"auto_map": {"A": "evil.py"}}))
    assert "asks for custom code" in refused(part, tiny)
    config.write_text(json.dumps(json.loads(text) | {"layers_per_block": 10**9}))
    assert "which cannot be of such a network" in refused(part, tiny)
    config.write_text(text)
    weights = part / UNET.name
    weights.rename(tmp_path / "outside.safetensors")
    weights.symlink_to(tmp_path / "outside.safetensors")
    assert "a link that leaves the folder" in refused(part, tiny)
    weights.unlink()
    (part / "diffusion_pytorch_model.bin").write_bytes(b"")
    assert "pickles that can run code" in refused(part, tiny)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is no model"),
        ({"a.bin": b""}, "is a pickle"),
        ({"a.safetensors": b"x" * 20}, "no whole safetensors file"),
        ({"a.safetensors": b"", "b.safetensors": b""}, "holds 2 files of weights"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path, tiny, files, said) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path, tiny)


def test_how_paths_and_scales_are_named(tmp_path: Path) -> None:
    odd = tmp_path / "a,scale=2;b"
    odd.mkdir()
    assert read_asked(str(odd))[0].path == odd  # an existing path is that path
    first, second = read_asked(f"{tmp_path},scale=0.5; {tmp_path}")
    assert (first.path, first.scale, second.scale) == (tmp_path, 0.5, None)
    for wrong, said in ((f"{tmp_path},scale=x", "no number"), ("nothing.here", "there is no")):
        with pytest.raises(UserError, match=said):
            read_asked(wrong)


def test_a_scale_is_of_an_adapter(changed: Path, tiny: str) -> None:
    assert "a scale is of an adapter" in refused(f"{changed / 'unet'},scale=0.5", tiny)


@pytest.mark.parametrize("many", [1, 3])
def test_a_learned_word(tiny: str, tmp_path: Path, many: int) -> None:
    vectors = torch.randn(many, 32)
    file = tmp_path / "word.safetensors"
    save_file({"<cat-toy>": vectors}, file)
    model, plain = over(file, tiny), load_base(tiny)
    ids = model.tokenize(["a <cat-toy> here"])[0].tolist()
    at = [i for i, token in enumerate(ids) if token >= len(plain.tokenizer)]
    assert len(at) == many
    assert at == list(range(at[0], at[0] + many))
    table = model.encoders[0].get_input_embeddings().weight
    assert torch.equal(table[torch.tensor([ids[i] for i in at])], vectors)
    # other prompts are read as before
    assert torch.equal(model.encode(["a red heart"]), plain.encode(["a red heart"]))
    save_file({"<cat-toy>": torch.randn(1, 31)}, file)
    assert "find no place" in refused(file, tiny)


def test_a_part_as_base_goes_over_the_embedded_base_that_it_fits(changed, tiny_base, tmp_path):
    shapes = Path(catalog.BASES["shapes"].source)
    shutil.copytree(shapes / "unet", tmp_path / "only" / "unet")
    found = find_base(str(tmp_path / "only"))
    assert found.source == str(shapes)
    assert found.over.notes[1].startswith("all else comes from the base shapes: vae, text_encoder")
    with pytest.raises(UserError, match="name the model that it goes over, with --base BASE"):
        find_base(str(changed / "unet"))


def test_several_are_taken_in_their_order(changed: Path, tiny: str, tmp_path: Path) -> None:
    for name, value in (("first", 1.0), ("second", 2.0)):
        save_file({"conv_out.bias": torch.full((4,), value)}, tmp_path / f"{name}.safetensors")
    texts = [str(changed / "unet"), f"{tmp_path / 'first.safetensors'}"]
    base = with_over(find_base(tiny), tiny, [*texts, str(tmp_path / "second.safetensors")])
    assert load_base(tiny, over=base.over).denoiser.conv_out.bias.tolist() == [2.0] * 4
    other = with_over(find_base(tiny), tiny, [str(tmp_path / "second.safetensors"), *texts])
    assert other.over.identity != base.over.identity
