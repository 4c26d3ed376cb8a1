"""Suites: each can be planned, says what it asks, and gives way to flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import make_config, merge
from t2i_backdoor_bench.running.suites import read_suite, suites


@pytest.mark.parametrize("name", suites())
def test_every_suite_can_be_planned(name: str) -> None:
    found = plan(make_config(merge(read_suite(name), {"n": 64})))
    assert found.config.folder == Path("results") / f"run-{name}"
    attacks, defenses = ({getattr(c, k) for c in found.cells} for k in ("attack", "defense"))
    assert "none" in defenses
    assert len(attacks) * len(defenses) > 4
    assert all(c.config["evaluation"]["n"] == 64 for c in found.cells)
    assert suites()[name].endswith((".", "?"))


def test_the_values_of_a_study_are_rows() -> None:
    found = plan(make_config(merge(read_suite("patch_size"), {"defenses": "none", "seeds": (0,)})))
    sizes = [c.attack for c in found.cells]
    assert sizes == [f"badt2i_pixel[size={n}]" for n in (4, 8, 16, 28)]
    kinds = plan(make_config(merge(read_suite("trigger_kinds"), {"defenses": "none"})))
    named = [c for c in kinds.cells if "trigger=" in c.attack]
    triggers = {c.config["attack"]["options"]["trigger"] for c in named}
    assert triggers == {"little", "on a quiet day", "\u200b", "\u043e"}


def test_streams_are_judged_beside_a_model_without_a_backdoor() -> None:
    rare = plan(make_config(merge(read_suite("stream_share"), {"seeds": (0,)})))
    seen = [a.instance.backdoor(None).seen for a in rare.attacks.values()]
    assert [(s.stream, s.share) for s in seen] == [(1000, x) for x in (0, 0.001, 0.01, 0.05, 0.2)]
    kinds = plan(make_config(merge(read_suite("stream_kinds"), {"seeds": (0,)})))
    alone = plan(make_config(merge(read_suite("blind_repair"), {"seeds": (0,)})))
    for found in (rare, kinds, alone):
        assert "trigger_accepted" in found.metrics
        needs = {need for defense in found.defenses for need in found.needs(defense)}
        assert needs <= {"clean_prompts", "stream"}
    for found in (kinds, alone):
        clean = [a.instance for a in found.attacks.values() if a.instance.whole_model]
        assert clean
        assert all(a.backdoor(None).target.kind == "unknown" for a in clean)


def test_the_standard_names_are_there_and_say_what_they_are() -> None:
    assert {"core", "adaptive", "paper_table_1", "paper_table_2"} <= set(suites())
    assert read_suite("paper-table-1") == read_suite("paper_table_1")
    assert read_suite("paper-table-1")["out"] == "results/run-paper_table_1"
    core = plan(make_config(merge(read_suite("core"), {"n": 64})))
    usual = plan(make_config({"n": 64, "controls": True}))
    assert (core.attacks.keys(), core.defenses.keys()) == (
        usual.attacks.keys(),
        usual.defenses.keys(),
    )
    assert core.seeds == (0, 1, 2), "the rules ask for three seeds"


def test_bad_names_are_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="did you mean patch_size"):
        read_suite("patchsize")
    with pytest.raises(UserError, match="unknown"):
        read_suite("../suites/patch_size")
    assert command.main(["--suite", "patch_size", "--config", "run.yaml"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert command.main(["list", "suites"]) == 0
    assert "patch_size" in capsys.readouterr().out
