"""How pictures are drawn, as a setting of the run: in the key, in the protocol line, in the file
that repeats the run, and refused in one line where it is wrong."""

from __future__ import annotations

import pytest
import yaml
from fakes import change, config, fakes, keys  # noqa: F401 - fixtures

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import Cell, Record, UserError
from t2i_backdoor_bench.flags import make_parser
from t2i_backdoor_bench.report.main_table import caption
from t2i_backdoor_bench.running.manifest import protocol
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.running.yaml_file import to_yaml


def line(config) -> str:
    cell = Cell("tiny", "a", "none", 0, "k")
    return caption([Record(cell, "done", protocol=protocol(plan(config)))])


def test_the_sampler_enters_key_and_protocol_line(config) -> None:
    made = plan(config)
    assert made.shared["base"]["sampler"] == {"steps": 2, "guidance": 2.0}
    assert "DPM-Solver++, 2 steps, guidance 2.0" in line(config)
    here = keys(config)
    for name, value, written in (
        ("steps", 3, "DPM-Solver++, 3 steps, guidance 2.0"),
        ("guidance", 0.0, "DPM-Solver++, 2 steps, guidance 0.0"),
        ("scheduler", "ddim", "DDIM, 2 steps, guidance 2.0"),
        ("scheduler", "own", "DPMSolverMultistepScheduler, 2 steps, guidance 2.0"),
    ):
        other = change(config, **{name: value})
        assert set(here.values()).isdisjoint(keys(other).values())
        assert plan(other).shared["base"]["sampler"][name] == value
        assert written in line(other)
    assert keys(change(config, steps=2, guidance=2.0, scheduler="dpm")) == here


def test_flags_and_the_file_that_repeats_a_run_have_them() -> None:
    flags = ["--steps", "4", "--guidance", "0", "--scheduler", "own"]
    config = make_config(vars(make_parser().parse_args(flags)))
    assert (config.steps, config.guidance, config.scheduler) == (4, 0.0, "own")
    again = make_config(yaml.safe_load(to_yaml(config, {})))
    assert (again.steps, again.guidance, again.scheduler) == (4, 0.0, "own")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"steps": 0}, "--steps 0 must be 1 or more"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"guidance": -1.0}, "--guidance -1 must be 0 or more"),
        ({"guidance": float("nan")}, "--guidance nan must be 0 or more"),
        ({"guidance": float("inf")}, "--guidance inf must be 0 or more"),
        ({"guidance": "high"}, "guidance must be a number"),
        ({"scheduler": 3}, "scheduler must be a text"),
    ],
)
def test_wrong_numbers_are_refused(given: dict, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong) as error:
        make_config(given)
    assert "\n" not in str(error.value)


def test_a_scheduler_that_does_not_exist_is_one_line_before_any_work(
    tiny, tmp_path, capsys
) -> None:
    out = tmp_path / "run"
    flags = ["--base", tiny, "--scheduler", "ddpm", "--out", str(out)]
    assert command.main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no scheduler 'ddpm' draws Stable Diffusion" in error
    assert not out.exists()
