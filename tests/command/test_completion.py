"""Shell completion: a script for each shell, with the names of methods, groups, bases and suites.
In bash it is tried out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t2i_backdoor_bench import command, completion
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.flags import SHELLS, make_parser, make_parsers
from t2i_backdoor_bench.running.suites import suites
from t2i_backdoor_bench.verbs import APART

pytest.importorskip("shtab")
QUIET = """
import sys
from t2i_backdoor_bench.command import main
status = main(["completion", "bash"])
sys.exit(status or int("torch" in sys.modules))
"""


def test_it_imports_no_torch() -> None:
    subprocess.run([sys.executable, "-c", QUIET], capture_output=True, check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_every_flag_verb_method_and_suite(shell: str, capsys) -> None:
    assert command.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for kind in ("attack", "defense", "metric"):
        for method in listed(kind):
            assert method.name in text
            assert all(group in text for group in method.groups)
    flags = [f for a in make_parser()._actions for f in a.option_strings if f.startswith("--")]
    for word in (*flags, *APART, *completion.VERBS, *suites(), "shapes-xl"):
        assert word.removeprefix("--") in text, word


def test_the_verbs_are_those_of_the_command() -> None:
    for verb in completion.VERBS:
        arguments, _ = command.without_verb([verb])
        assert arguments != [verb], "command knows it"
    assert APART.keys() == make_parsers().keys()


@pytest.fixture(scope="module")
def bash(tmp_path_factory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("bash") / "script"
    path.write_text(completion.script("bash"))
    return path


def completed(path: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    call = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        " _shtab_t2i_backdoor_bench 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    program = [shutil.which("bash"), "-c", call, "bash", str(path), completion.PROGRAM, *words]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run --attacks badt2i_p", "badt2i_pixel"),
        ("--attacks badt2i_p", "badt2i_pixel"),
        ("run --attacks eviledit,badt2i_p", "eviledit,badt2i_pixel"),
        ("run --defenses none,frequency_locate+skdcag_b", "none,frequency_locate+skdcag_black"),
        ("run --suite paper_table_", "paper_table_1 paper_table_2"),
        ("validate --scale s", "smoke study"),
        ("validate --time-l", "--time-limit"),
        ("list m", "metrics"),
        ("export --form ", "folder changed lora"),
        ("comp", "completion"),
        ("completion ", " ".join(SHELLS)),
    ],
)
def test_bash_offers_what_fits(bash: Path, words: str, offered: str) -> None:
    assert completed(bash, *words.split(" ")) == set(offered.split())


def test_what_is_missing_or_unknown_is_one_line(monkeypatch, capsys) -> None:
    assert command.main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err
    monkeypatch.setattr(completion.importlib.util, "find_spec", lambda name: None)
    assert command.main(["completion", "bash"]) == 2
    assert "needs the package shtab: pip install shtab" in capsys.readouterr().err
