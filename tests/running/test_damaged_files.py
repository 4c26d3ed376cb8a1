"""Files with a flipped byte or a wrong size: found, named, and made again."""

from __future__ import annotations

import dataclasses
import os

import pytest
from fault_runs import calls, outcome
from shifts import config, methods  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store

ALIKE = [pytest.param(what, marks=pytest.mark.thorough) for what in ("before", "attack", "plan")]


@pytest.mark.parametrize("what", ["cell", "images", "weights", "checksum", *ALIKE])
def test_a_flipped_byte_is_found_named_and_made_again(config, tmp_path, what, capsys) -> None:
    config = dataclasses.replace(config, attacks="shift_attack")
    assert runner.run(config) == 0
    before, plan_ = outcome(config.folder), plan(config)
    cell, attack = plan_.cells[1], plan_.attack_key("shift_attack", 0)
    path = (
        config.folder
        / {
            "cell": f"cells/{cell.key}.json",
            "images": f"samples/{cell.key}.safetensors",
            "before": f"samples/{plan_.before_key(0, '')}.safetensors",
            "weights": f"models/{attack}.safetensors",
            "attack": f"models/{attack}.json",
            "checksum": f"models/{attack}.safetensors.sha256",
            "plan": "run.json",
        }[what]
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    if what not in ("cell", "images", "plan"):  # what a cell that is stored needs no more
        for name in ("cells", "samples"):
            for file in (config.folder / name).glob(f"{cell.key}*"):
                file.unlink()
    (tmp_path / "calls").unlink()
    capsys.readouterr()
    assert runner.run(config) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    named = path.with_suffix("") if what == "checksum" else path
    assert len(said) == 1
    assert str(named) in said[0]
    after = outcome(config.folder)
    assert after == before
    made = {
        "weights": ["attack 0.5 0", "defense 0.25 0"],
        "images": ["defense 0.25 0"],
        "before": ["defense 0.25 0"],
    }
    made |= {"attack": made["weights"], "checksum": made["weights"]}
    assert calls(tmp_path) == made.get(what, [])
    capsys.readouterr()
    assert runner.run(config) == 0
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("what", ["maps", "maps before the attack", "prompts"])
def test_a_flipped_byte_in_what_only_the_report_shows_is_found_too(config, what, capsys) -> None:
    config = dataclasses.replace(
        config, attacks="shift_attack", defenses="none", attention_maps=True
    )
    assert runner.run(config) == 0
    (cell,) = plan(config).cells
    own, others = f"{cell.key}.safetensors", sorted((config.folder / "maps").glob("*.safetensors"))
    (before,) = (p for p in others if p.name != own)
    (prompts,) = (config.folder / "prompts").glob("*.json")
    path = {"maps": before.with_name(own), "maps before the attack": before, "prompts": prompts}[
        what
    ]
    whole, report = path.read_bytes(), (config.folder / "report.html").read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    capsys.readouterr()
    assert runner.run(config) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert len(said) == 1
    assert str(path) in said[0]
    assert path.read_bytes() == whole
    assert (config.folder / "report.html").read_bytes() == report


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10_000_000, 0])
def test_a_header_that_lies_about_its_size_is_a_damaged_file(tmp_path, size) -> None:
    """Also where somebody made the checksum fit."""
    said = []
    store = Store(tmp_path, said.append)
    path = store.write_file(
        "samples/a.safetensors",
        lambda partial: partial.write_bytes(size.to_bytes(8, "little") + b"{}" * 50),
    )
    assert store.read_arrays("samples/a") is None
    assert store.find_file("samples/a.safetensors") is None
    assert len(said) == 1
    assert str(path) in said[0]


def test_a_tensor_that_lies_about_its_size_is_a_damaged_file(tmp_path) -> None:
    said = []
    for i, (shape, ends) in enumerate(
        [
            ([10**9], [0, 10**9]),
            ([4], [0, 40]),
            ([2**40, 2**40], [0, 4]),
            ([4], [10**12, 10**12 + 4]),
        ]
    ):
        header = f'{{"x":{{"dtype":"U8","shape":{shape},"data_offsets":{ends}}}}}'.encode()
        store = Store(tmp_path, said.append)
        store.write_file(
            f"{i}.safetensors",
            lambda p, h=header: p.write_bytes(len(h).to_bytes(8, "little") + h + b"1234"),
        )
        assert store.read_arrays(str(i)) is None
        assert len(said) == i + 1


def test_checksums_are_of_the_whole_file(tmp_path) -> None:
    path = Store(tmp_path).write_file(
        "a.bin", lambda partial: partial.write_bytes(os.urandom(3 * 2**20 + 1))
    )
    whole = file_digest(path)
    for at in (0, 2**20, 3 * 2**20):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        assert file_digest(path) != whole
        data[at] ^= 1
        path.write_bytes(data)
    assert Store(tmp_path).find_file("a.bin") == path
