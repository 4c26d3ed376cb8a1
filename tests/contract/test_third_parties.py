"""A package of a third party registers its methods through entry points."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import Defense, Registry, UserError, registry
from t2i_backdoor_bench.report.formats import method_list
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config

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

    def make(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[t2i_backdoor_bench.defenses]\n{name} = {name}\n")
        sys.modules.pop(name, None)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(registry.defenses, "_loaded", False)  # as a new process would

    return make


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


def test_a_new_registry_is_empty():
    assert Registry("defense", Defense).entries == {}
