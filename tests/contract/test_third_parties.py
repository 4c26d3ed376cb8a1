"""A package of a third party registers its methods through entry points."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from page_code import PAGES, blocks

from t2i_backdoor_bench import command, targets
from t2i_backdoor_bench.contract import Defense, Registry, Target, UserError, registry
from t2i_backdoor_bench.models import catalog
from t2i_backdoor_bench.report.formats import method_list
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.provenance import versions
from t2i_backdoor_bench.store.records import stored_records

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 1.0, (0,))
DEFENSE = '''
import dataclasses

from t2i_backdoor_bench.contract import Defense, register_defense

PAPER = "@article{me2031, author = {Doe, Jane}, year = {2031}}"


@register_defense("third_party", needs=("trigger",), paper=PAPER)
@dataclasses.dataclass
class ThirdParty(Defense):
    """Drops the trigger from every prompt."""

    def apply(self, model, view, seed):
        word = view.trigger.text
        return dataclasses.replace(model, rewrite=lambda prompt: prompt.replace(word, "").strip())
'''


@pytest.fixture
def package(tmp_path, monkeypatch, clean_registry):
    """An installed package, as pip leaves it: a module, and a .dist-info folder with its entry
    points."""

    def make(name: str, code: str, points: str = "") -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        points = points or f"[t2i_backdoor_bench.defenses]\n{name} = {name}\n"
        (info / "entry_points.txt").write_text(points)
        sys.modules.pop(name, None)
        monkeypatch.syspath_prepend(str(tmp_path))
        for kind in (registry.attacks, registry.defenses):  # as a new process would
            monkeypatch.setattr(kind, "_loaded", False)
        forget()

    yield make
    forget()


def forget() -> None:
    """What this process has read of installed packages."""
    for cached in (targets.others, catalog.others):
        cached.cache_clear()


def test_a_package_registers_through_its_entry_point(package, tiny, tmp_path, capsys):
    package("third_party_defense", DEFENSE)
    assert "third_party" in registry.defenses.select("all")
    config = Config(
        "badt2i_pixel",
        "none,third_party",
        tiny,
        SCALE,
        metrics="asr,clip_score",
        out=tmp_path / "run",
        workers=1,
    )
    config = dataclasses.replace(
        config, overrides=("badt2i_pixel.steps=1", "badt2i_pixel.images=8", "badt2i_pixel.batch=4")
    )
    assert command.run(config) == 0
    assert "me2031" in (config.folder / "report.html").read_text()
    method_list.show([], {})
    assert "third_party" in capsys.readouterr().out


def test_a_broken_package_is_one_clear_line(package):
    package("broken_defense", "import a_module_that_is_not_there")
    with pytest.raises(
        UserError,
        match=r"defense 'broken_defense' of broken_defense cannot be loaded \(ModuleNotFoundError",
    ):
        registry.defenses.get("skdcag")


def test_a_name_that_is_taken_is_refused(package):
    package("twice_defense", DEFENSE.replace('"third_party"', '"skdcag"'))
    with pytest.raises(
        UserError, match=r"already registered by t2i_backdoor_bench\.defenses\.skdcag"
    ):
        registry.defenses.get("skdcag")


FRAME = blocks(PAGES["frame"], "python")[0]
POINTS = "\n".join(
    line.replace('"', "").replace("[project.entry-points.", "[")
    for line in blocks(PAGES["frame"], "toml")[0].splitlines()
)


def test_a_package_brings_a_target_with_its_judge_an_attack_and_a_base(package, tiny, tmp_path):
    package("frame", FRAME, POINTS)
    assert catalog.find_base("shapes-slow").sampler.steps == 30
    assert "frame" in versions()
    overrides = ("steps=1", "images=8", "batch=4")
    config = Config(
        "poison_frame",
        "none",
        tiny,
        SCALE,
        metrics="asr,removal_accuracy,restoration_accuracy",
        out=tmp_path / "run",
        workers=1,
        overrides=tuple(f"poison_frame.{x}" for x in overrides),
    )
    assert command.run(config) == 0
    (found,) = stored_records(Store(config.folder))
    assert found.status == "done"
    assert 0 <= found.scores["asr"].value <= 1
    assert '"frame"' in next((config.folder / "cells").glob("*.json")).read_text()
    assert "frame" in (config.folder / "report.html").read_text()


def test_the_pages_judge_and_trace_tell_a_frame(package):
    package("frame", FRAME, POINTS)
    target = Target("frame", style="magenta")
    kind = targets.kind_of(target)
    images = np.random.default_rng(0).integers(0, 200, (6, 32, 32, 3), dtype=np.uint8)
    framed = kind.paste(images, target)
    assert (framed[:, 0] == (255, 0, 255)).all()
    assert (framed[:, 8:24, 8:24] == images[:, 8:24, 8:24]).all()
    judge = kind.judge(target, None)
    assert judge(framed, [None] * 6).all()
    assert not judge(images, [None] * 6).any()
    number = kind.trace(target, None).number
    np.testing.assert_allclose(number(framed, images, None), 1)
    np.testing.assert_allclose(number(images, images, None), 0)
    np.testing.assert_allclose(number(kind.weakened(images, target, None), images, None), 0.5, 0.05)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("[t2i_backdoor_bench.targets]\nframe = frame:SLOW", "no class derived from"),
        ("[t2i_backdoor_bench.targets]\npatch = frame:Frame", "no class derived from"),
        ("[t2i_backdoor_bench.bases]\nslow = frame:Frame", "no catalog.Base"),
        ("[t2i_backdoor_bench.bases]\nshapes = frame:SLOW", "a name that is taken"),
        ("[t2i_backdoor_bench.bases]\nslow = frame:Absent", "'slow' of frame cannot be loaded"),
    ],
)
def test_what_is_no_target_or_base_is_one_clear_line(package, points, message):
    package("frame", FRAME, points)
    read = targets.others if "targets" in points else catalog.others
    with pytest.raises(UserError, match=message):
        read()


def test_a_new_registry_is_empty():
    assert Registry("defense", Defense).entries == {}
