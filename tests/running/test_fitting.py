"""A method that does not work on the base's family is refused by its name before any work, and left
out of a group."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tiny_joint import build_joint

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError, registry
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.models import catalog
from t2i_backdoor_bench.models.families.folders import LAYOUTS
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.report.formats import method_list
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config

REASON = "in its single blocks text has no keys and values of its own"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_joint(tmp_path_factory.mktemp("flux") / "flux", "flux_schnell")


@pytest.fixture
def flux(folder, tiny_scorer, monkeypatch) -> str:
    base = catalog.Base(str(folder), "shapes", Sampler(2, 0.0, "own"), 16, str(tiny_scorer))
    monkeypatch.setitem(catalog.BASES, "flux", base)
    return "flux"


@pytest.mark.parametrize(
    ("attacks", "defenses", "name"),
    [
        ("eviledit", "none", "eviledit"),
        ("badt2i_pixel+eviledit", "none", "badt2i_pixel+eviledit"),
        ("badt2i_pixel", "none,uce", "uce"),
        ("badt2i_pixel", "none,uce[ridge=1.0]", "uce[ridge=1.0]"),
        ("badt2i_pixel", "t2ishield_ftt+t2ishield_locate+uce", "uce"),
    ],
)
def test_it_is_refused_by_its_name(
    flux, tmp_path, monkeypatch, capsys, attacks: str, defenses: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--base", flux, "--scale", "smoke", "--out", "run"]
    assert command.main([*given, "--attacks", attacks, "--defenses", defenses]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert name in said
    assert f"does not work on FLUX: {REASON}" in said
    assert list(tmp_path.iterdir()) == []


def test_it_is_left_out_of_a_group(flux, tmp_path) -> None:
    config = Config(base=flux, attacks="core", defenses="none,removal", out=tmp_path)
    found = plan(config)
    unfit = {n for n in registry.defenses.groups["removal"] if n in ("mace", "uce", "uce_phrase")}
    assert {n for n in found.unfit if n in registry.defenses.entries} == unfit
    assert set(found.unfit.values()) == {REASON}
    (note,) = (line for line in found.notes if line.startswith("left out: "))
    names, _, why = note.removeprefix("left out: ").partition(", not for this family of models: ")
    assert (set(names.split(", ")), why) == (set(found.unfit), REASON), "one line a reason"
    assert "skdcag" in found.defenses
    assert not set(found.unfit) & {*found.attacks, *found.defenses}
    assert set(found.attacks) | set(found.unfit) >= set(registry.attacks.groups["core"])


def test_a_group_of_which_nothing_works_is_refused(flux, tmp_path) -> None:
    with pytest.raises(UserError, match="does not work on FLUX"):
        plan(Config(base=flux, attacks="closed_form", defenses="none", out=tmp_path))


def test_other_families_have_every_method(tiny, tmp_path) -> None:
    config = Config(base=tiny, attacks="eviledit", defenses="none,uce", out=tmp_path)
    assert plan(config).unfit == {}


def test_families_and_reasons_are_written_out() -> None:
    known = {layout.name for layout in LAYOUTS.values()}
    assert "" not in known
    for kind in (registry.attacks, registry.defenses, registry.metrics):
        kind.load()
        for entry in kind.entries.values():
            assert set(entry.not_on) <= known, entry.name
            assert all(len(why) > 20 and not why.endswith(".") for why in entry.not_on.values())
    found = {m.name: m.facts.get("not_on") for m in listed("attack")}
    assert found["eviledit"] == {"flux": REASON}
    text = io.StringIO()
    method_list.show(["shapes"], {}, text, "attacks")
    assert "Not on: flux." in " ".join(text.getvalue().split())
