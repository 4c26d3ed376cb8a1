"""Pickles of weights become safetensors, without running what is in them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from untrusted import folder, refused  # noqa: F401 - a fixture

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.convert import PROGRAM, convert
from t2i_backdoor_bench.models.loading import load_pipeline


def told(source: Path, target: Path) -> list[str]:
    lines: list[str] = []
    assert convert(source, target, lines.append) == 0
    return lines


def test_a_checkpoint_of_a_training_tool_becomes_its_weights(tmp_path: Path) -> None:
    shared = torch.randn(4, 3)
    weights = {"a.weight": shared, "b.weight": shared.t(), "half": torch.ones(2).half()}
    state = {"state_dict": weights | {"note": "text"}, "global_step": 7, "epoch": 1}
    torch.save(state, tmp_path / "x.ckpt")
    (line,) = [t for t in told(tmp_path / "x.ckpt", tmp_path / "y.safetensors") if "tensors" in t]
    assert "3 tensors" in line
    assert "of its entry 'state_dict'" in line
    for name in ("'note'", "'global_step'", "'epoch'"):
        assert name in line
    found = load_file(tmp_path / "y.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in weights.items())


def test_a_learned_word_is_one_that_can_be_read(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(2, 8)}, "name": "w"}, tmp_path / "w.pt")
    told(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["emb_params"].shape == (2, 8)


def test_a_model_folder_is_whole_and_has_the_same_weights(folder: Path, tmp_path: Path) -> None:
    """With a part in one pickle, and another in shards with an index."""
    before = load_pipeline(str(folder))
    unet = next((folder / "unet").glob("*.safetensors"))
    torch.save(load_file(unet), unet.with_name("diffusion_pytorch_model.bin"))
    unet.unlink()
    text = next((folder / "text_encoder").glob("*.safetensors"))
    names, shards = list(load_file(text).items()), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save(dict(part), text.with_name(shard))
        shards |= {k: shard for k, _ in part}
    text.unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (folder / "text_encoder" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "run_me.py").write_text("raise SystemExit")
    refused(folder, "convert OLD NEW")
    new = tmp_path / "new"
    assert any("run_me.py" in line for line in told(folder, new))
    assert not [p for p in new.rglob("*") if p.suffix in (".bin", ".py")]
    after = load_pipeline(str(new))
    for part in (lambda pipe: pipe.unet, lambda pipe: pipe.text_encoder):
        a, b = part(before).state_dict(), part(after).state_dict()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_does_not_run(way: str, tmp_path: Path, capsys) -> None:
    file, new = tmp_path / "evil.bin", tmp_path / "new.safetensors"
    if way == "torch":
        torch.save({"weight": torch.ones(2), "bomb": Bomb(tmp_path / "ran")}, file)
    else:
        file.write_bytes(f"cos\nsystem\n(S'touch {tmp_path / 'ran'}'\ntR.".encode())
    assert command.main(["convert", str(file), str(new)]) == 2
    error = capsys.readouterr().err
    assert "holds more than tensors" in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.bin"], "nothing ran or was left"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_text("no pickle"), "holds more than tensors, or is damaged"),
        (lambda p: torch.save([1, 2], p), "no tensors by name"),
        (lambda p: torch.save({"lr": 0.1}, p), "no tensors by name"),
    ],
)
def test_what_holds_no_weights_is_one_line(make, message, tmp_path: Path) -> None:
    make(tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "x.pt", tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


def test_bad_places_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("never read")
    (tmp_path / "folder").mkdir()
    for source, target, message in (
        ("a.bin", "a.bin", "exists"),
        ("a.bin", "b.bin", r"must end in \.safetensors"),
        ("none.bin", "b.safetensors", "neither a pickle"),
        ("folder", "new", "holds no pickle"),
    ):
        with pytest.raises(UserError, match=message):
            convert(tmp_path / source, tmp_path / target)


CALL = """
import importlib.util, socket, sys
spec = importlib.util.spec_from_file_location("unpickle", sys.argv[1])
unpickle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unpickle)
cut = unpickle.cut_network()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5).close()
    print(cut, True)
except OSError:
    print(cut, False)
"""


def test_a_process_that_says_it_has_no_network_reaches_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [sys.executable, "-c", CALL, str(PROGRAM), str(server.getsockname()[1])]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["True", "False"], ["False", "True"])
