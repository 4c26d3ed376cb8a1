"""Option values out of range, given to the command: one line on stderr, exit status 2, and nothing
is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2i_backdoor_bench import command


@pytest.fixture
def refused(tiny, tmp_path, monkeypatch, capsys):
    """Run the command with more arguments in an empty folder. Returns its one line on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        given = ["--base", tiny, "--scale", "smoke", "--out", "run", *arguments]
        assert command.main(given) == 2
        assert list(Path.cwd().iterdir()) == [], "nothing is written"
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err.startswith("error: ")
        return said.err

    return run


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("skdcag.steps=-5", "skdcag.steps is -5; it must be 1 or more"),
        ("skdcag.lr=-1", "skdcag.lr is -1; it must be above 0"),
        ("skdcag.lr=nan", "skdcag.lr is nan; give a finite number"),
        ("skdcag.batch=0", "skdcag.batch is 0; it must be 1 or more"),
        ("badt2i_pixel.corner=middle", "badt2i_pixel.corner is 'middle'; choose one of"),
        ("badt2i_pixel.trigger=", "the trigger is empty; give it at least one character"),
    ],
)
def test_a_value_out_of_range_is_refused_before_any_work(refused, setting: str, words: str) -> None:
    methods = ["--attacks", "badt2i_pixel", "--defenses", "none,skdcag"]
    assert words in refused(*methods, "--set", setting)


def test_a_variant_out_of_range_is_refused_before_any_work(refused) -> None:
    methods = ["--attacks", "badt2i_pixel", "--defenses", "none,skdcag[alpha=7]"]
    assert "skdcag.alpha is 7; it must be 0 to 1" in refused(*methods)
