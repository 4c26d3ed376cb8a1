"""Settings of others: YAML that grows without end, values of wrong types and without bounds, in
every key. Each is one line, before anything is begun."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.contract.options import Option
from t2i_backdoor_bench.running.settings import FIELDS, make_config
from t2i_backdoor_bench.running.yaml_file import MOST_BYTES, read_yaml

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh")
)


def refused(tmp_path: Path, capsys, text: str) -> str:
    """The one line that a file of settings ends in."""
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert command.main(["--config", str(file), "--tables-only"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 1000
    return said


@pytest.mark.parametrize("name", [*FIELDS, "suspect", "trigger", "unknown"])
def test_nested_aliases_are_one_line_in_every_key(tmp_path, capsys, name) -> None:
    assert len(LAUGHS) < 500
    assert "is an alias" in refused(tmp_path, capsys, f"{LAUGHS}{name}: *h\n")
    assert "is an alias" in refused(tmp_path, capsys, f"{name}: &x [*x]\n")


@pytest.mark.parametrize("name", FIELDS)
def test_values_of_another_type_in_every_key(tmp_path, capsys, name) -> None:
    for value in ("{a: {b: [1]}}", "[[[1]]]", "2020-01-01", "!!binary aGk=", "!!set {a}"):
        if name in ("attacks", "defenses", "metrics") and value == "[[[1]]]":
            continue  # names, that no method has
        refused(tmp_path, capsys, f"{name}: {value}\n")


@pytest.mark.parametrize(
    "value", ["''", "5", "' '", "[a]", "{a: b}", "true", '"a\\0b"', '"a\\x1b"']
)
def test_out_is_a_path(tmp_path, capsys, value) -> None:
    assert "out must be a path" in refused(tmp_path, capsys, f"out: {value}\n")


@pytest.mark.parametrize("value", ["", " ", "a\0b", "a\x1b[2J"])
def test_out_of_the_command_line_is_a_path(capsys, value) -> None:
    assert command.main(["--out", value, "--tables-only"]) == 2
    assert "is not a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("n", "threads", "workers") for value in (0, -1, 10**12)),
        *(("gpu_share", value) for value in (0.0, -1.0, math.nan, math.inf, 1e9)),
        *(
            ("seeds", value)
            for value in (-1, 2**64, [0, 2**32], "1e9", list(range(1001)), [math.nan])
        ),
    ],
)
def test_numbers_have_bounds(name, value) -> None:
    with pytest.raises(UserError) as error:
        make_config({name: value})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000,
        "a: " * 10_000,
        "- " * 10_000,
        "{" * 10_000,
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "? [a, b]\n: c",
        "a: 1\na: 2",
        "<<: {a: 1}",
        "a: 'x",
        "\x00",
        "n: " + "9" * 5000,
        "5",
        "[a]",
    ],
)
def test_strange_yaml(tmp_path, capsys, text) -> None:
    refused(tmp_path, capsys, text)


def test_large_files_pipes_and_folders(tmp_path) -> None:
    import os

    file = tmp_path / "run.yaml"
    file.write_text("# x\n" * MOST_BYTES)
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (file, tmp_path, tmp_path / "pipe.yaml", tmp_path / "absent"):
        with pytest.raises(UserError):
            read_yaml(path)


def test_options_of_nan_and_infinity() -> None:
    """Refused where they are given; and if one gets in, its key is its own."""
    for value in (math.nan, math.inf, -math.inf, (1.0, math.nan)):
        with pytest.raises(UserError, match="finite"):
            Option({}).check("a.b", value)
    values = (math.nan, math.inf, -math.inf, None, 0.0)
    assert len({digest(plain({"x": v}, str)) for v in values}) == 5
    assert plain({"x": math.nan}) == {"x": None}, "a score that is none is stored as none"
