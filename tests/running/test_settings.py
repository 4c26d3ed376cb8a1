"""Settings: flags, YAML and library arguments are one thing, strict, and every run writes the file
that repeats it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.flags import make_parser
from t2i_backdoor_bench.running import settings, short_settings
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config, make_config, merge
from t2i_backdoor_bench.running.yaml_file import read_yaml, to_yaml

FILE = """
attacks: [badt2i_pixel, poison_style]
defenses: none,skdcag
scale: smoke
seeds: [0, 3]
n: 70
set: {skdcag.steps: 20, badt2i_pixel.trigger: "\\u200b", skdcag.raw_black: false}
sweep: {skdcag.alpha: [0, 0.5]}
out: results/x
attention-maps: true
device: cpu
"""
FLAGS = [
    "--attacks",
    "badt2i_pixel,poison_style",
    "--defenses",
    "none,skdcag",
    "--scale",
    "smoke",
    "--seeds",
    "0,3",
    "--n",
    "70",
]
FLAGS += [
    "--set",
    "skdcag.steps=20",
    "--set",
    "badt2i_pixel.trigger=\u200b",
    "--set",
    "skdcag.raw_black=false",
]
FLAGS += [
    "--sweep",
    "skdcag.alpha=0,0.5",
    "--out",
    "results/x",
    "--attention-maps",
    "--device",
    "cpu",
]


def from_flags(*flags: str) -> Config:
    return make_config(vars(make_parser().parse_args(flags)))


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_the_flags_and_the_library_say_the_same(tmp_path: Path):
    expected = from_flags(*FLAGS)
    assert make_config(read_yaml(write(tmp_path, FILE))) == expected
    library = make_config(
        {
            "attacks": ["badt2i_pixel", "poison_style"],
            "defenses": "none,skdcag",
            "scale": "smoke",
            "seeds": (0, 3),
            "n": 70,
            "set": {
                "skdcag.steps": 20,
                "badt2i_pixel.trigger": "\u200b",
                "skdcag.raw_black": False,
            },
            "sweep": ["skdcag.alpha=0,0.5"],
            "out": "results/x",
            "attention_maps": True,
            "device": "cpu",
        }
    )
    assert library == expected
    assert expected.scale is SCALES["smoke"]
    assert expected.overrides == (
        "skdcag.steps=20",
        "badt2i_pixel.trigger=\u200b",
        "skdcag.raw_black=false",
    )


def test_nothing_given_is_the_defaults():
    assert from_flags() == dataclasses.replace(Config(), device="auto", dtype="auto")
    assert make_config({}) == from_flags()


def test_flags_win_over_the_file_and_set_adds_up(tmp_path: Path):
    file = read_yaml(write(tmp_path, FILE))
    flags = vars(make_parser().parse_args(["--n", "80", "--set", "skdcag.steps=99"]))
    config = make_config(merge(file, flags))
    assert config.n == 80
    assert config.attacks == "badt2i_pixel,poison_style"
    assert config.overrides[-1] == "skdcag.steps=99"
    assert "badt2i_pixel.trigger=\u200b" in config.overrides


def test_what_a_run_writes_repeats_it(tmp_path: Path):
    config = from_flags(*FLAGS, "--workers", "2", "--threads", "1")
    again = make_config(read_yaml(write(tmp_path, to_yaml(config, {}))))
    assert again == config
    resolved = to_yaml(from_flags("--fresh"), {"attacks": ["a", "b"], "seeds": [0, 1]})
    assert yaml.safe_load(resolved)["attacks"] == ["a", "b"]
    assert "fresh" not in resolved, "what repeats a run does not throw it away"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("atacks: all", "attacks"),
        ("n: many", "n must be a whole number"),
        ("n: true", "n must be a whole number"),
        ("attention-maps: 1", "true or false"),
        ("scale: huge", "unknown scale"),
        ("style: fancy", "unknown style"),
        ("seeds: [0, x]", "seeds"),
        ("seeds: [-1]", "seeds"),
        ("set: skdcag.steps", "set must be"),
        ("workers: 0", "--workers 0 must be 1 or more"),
        ("n: 3\nn: 4", "n is given twice"),
        ("- a\n- b", "names and values"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML"),
        ("trigger: x", "--trigger goes with --suspect"),
        ("suspect: true\nattacks: all", "leave out --attacks"),
        ("suspect: maybe", "suspect must be"),
    ],
)
def test_strict(tmp_path: Path, text: str, words: str, capsys):
    assert command.main(["--config", str(write(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_no_such_file(tmp_path: Path, capsys):
    assert command.main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read --config" in capsys.readouterr().err


def test_every_flag_is_a_setting():
    actions = {
        a.option_strings[-1].removeprefix("--").removeprefix("no-") for a in make_parser()._actions
    }
    verbs = {"help", "list", "tables-only", "verify", "validate", "all", "fetch", "version"}
    verbs |= {"config", "study"}  # files of settings; --study is --suite
    assert actions - verbs == set(settings.KEYS)


def test_suspect_is_short_for_an_attack_and_its_options():
    config = make_config(
        {"suspect": True, "trigger": "mignneko", "set": {"suspect.place": "suffix"}}
    )
    assert config.attacks == "suspect"
    assert config.overrides == ("suspect.place=suffix", "suspect.trigger=mignneko")
    assert config.metrics == short_settings.SUSPECT_METRICS
    assert make_config({"suspect": True, "metrics": "drift"}).metrics == "drift"
    assert make_config({"suspect": False, "attacks": "all"}).attacks == "all"


def test_a_trigger_that_yaml_did_not_decode_is_refused():
    from t2i_backdoor_bench.contract import Trigger

    with pytest.raises(UserError, match="double quotes"):
        Trigger("\\u200b ")
    assert Trigger("\u200b").text == "\u200b"
