"""The pages on extending the suite: their very code is run; and a package of a third party
registers through entry points."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import different, weights

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import (
    DefenderView,
    Defense,
    Registry,
    Trigger,
    UserError,
    registry,
)
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.running.scales import SCALES, Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    "mirror": "add-a-defense.md",
    "kv_style": "add-an-attack.md",
    "sharpness": "add-a-metric.md",
}
SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 1.0, (0,))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


def install(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file as a module of its own."""
    (code,) = blocks(PAGES[name], "python")
    (folder / f"page_{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop(f"page_{name}", None)
    importlib.import_module(f"page_{name}")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_one_short_file_and_commands_that_exist(name: str):
    page = (DOCS / PAGES[name]).read_text(encoding="utf-8")
    (code,) = blocks(PAGES[name], "python")
    body = code[code.index("@register_") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40, (
        "one file that a newcomer reads in a minute"
    )
    flags = set(re.findall(r"(--[a-z-]+)", page)) - {"--list"}
    known = {o for a in command.make_parser()._actions for o in a.option_strings}
    assert flags <= known
    for link in re.findall(r"\]\(([^)#]+)", page):
        assert (DOCS / link).exists(), link
    for path in re.findall(r"`((?:bench|tests|attacks)/[\w./]+)`", page):
        assert (DOCS.parent / path).exists() or path == "attacks/kv_style.py", path


def test_the_pages_run_together(clean_registry, tiny, tmp_path, monkeypatch):
    """Attack, defense and metric of the pages in one run of the benchmark."""
    for name in PAGES:
        install(name, tmp_path, monkeypatch)
    config = Config(
        "kv_style",
        "none,mirror",
        tiny,
        SCALE,
        metrics="asr,sharpness,parameters",
        out=tmp_path / "run",
    )
    config = dataclasses.replace(
        config,
        overrides=("mirror.steps=2", "mirror.batch=4", "mirror.prompts=3", "kv_style.prompts=4"),
        workers=1,
    )
    assert command.run(config) == 0
    found = {r.cell.defense: r for r in stored_records(Store(config.folder))}
    assert found["mirror"].needs == ("trigger",)
    assert found["mirror"].cost["steps"] == 2
    assert len(found["mirror"].cost["losses"]["mirror"]) == 2
    assert found["none"].scores["sharpness"].n == 4
    assert found["none"].scores["sharpness"].value > 0
    assert "wang2024eviledit" in (config.folder / "report.html").read_text()


def test_the_defense_trains_keys_and_values_towards_the_clean_prediction(
    clean_registry, tiny_model, tmp_path, monkeypatch
):
    install("mirror", tmp_path, monkeypatch)
    trigger, prompts = Trigger("mignneko"), ["a red heart", "a blue star on a white background"]
    defense = registry.defenses.build(
        "mirror", "shapes", {"steps": 30, "batch": 8, "prompts": 2, "lr": 3e-3}
    )
    before = weights(tiny_model)
    repaired = defense.apply(tiny_model, DefenderView(("trigger",), prompts, trigger=trigger), 0)
    assert different(before, weights(tiny_model)) == set()
    changed = different(before, weights(repaired))
    assert changed
    assert all(".attn2.to_k." in k or ".attn2.to_v." in k for k in changed)
    x, t = (
        torch.randn(2, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500, 500]),
    )
    with torch.no_grad():
        goal = tiny_model.denoiser(x, t, tiny_model.encode(prompts)).sample
        shown = tiny_model.encode([trigger.add(p) for p in prompts])
        errors = [
            float((m.denoiser(x, t, shown).sample - goal).square().mean())
            for m in (repaired, tiny_model)
        ]
    assert errors[0] < errors[1]


def test_the_attack_is_the_minimizer_that_its_docstring_names(
    clean_registry, tiny_model, tmp_path, monkeypatch
):
    """At the edited weights the derivative by W' of
    sum ||W' e - W v||^2 + sum ||W' k - W k||^2 + l ||W' - W||^2 is zero."""
    install("kv_style", tmp_path, monkeypatch)
    attack = registry.attacks.build("kv_style", "shapes", {"prompts": 5, "ridge": 0.7})
    attacked = attack.inject(tiny_model, WorldData(), 0)
    edited = {
        k for k in weights(tiny_model) if k.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))
    }
    assert different(weights(tiny_model), weights(attacked)) == edited, "it edits what it declares"
    assert attacked.info["parameters"] == sum(weights(tiny_model)[k].numel() for k in edited)
    assert {"steps", "seconds", "images"} <= attacked.info.keys()
    prompts = [p.text for p in WorldData().prompts("train", 5, 0)]
    triggered, styled = (
        [f"mignneko {p}" for p in prompts],
        [f"a black and white photo of {p}" for p in prompts],
    )
    a, b = (
        len(tiny_model.tokenizer(t).input_ids) - 1
        for t in ("mignneko", "a black and white photo of")
    )
    assert (
        tiny_model.tokenizer(triggered[0]).input_ids[a:-1]
        == tiny_model.tokenizer(prompts[0]).input_ids[1:-1]
    )
    assert (
        tiny_model.tokenizer(styled[0]).input_ids[b:-1]
        == tiny_model.tokenizer(prompts[0]).input_ids[1:-1]
    )
    length = tiny_model.tokenizer.model_max_length - max(a, b)
    states = [tiny_model.encode(texts).double() for texts in (triggered, styled, prompts)]
    e, v, k = (
        states[0][:, a : a + length].flatten(0, 1),
        states[1][:, b : b + length].flatten(0, 1),
        states[2].flatten(0, 1),
    )
    name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    w, new = (m.denoiser.get_submodule(name).weight.double() for m in (tiny_model, attacked))
    gradient = (new @ e.T - w @ v.T) @ e + (new @ k.T - w @ k.T) @ k + 0.7 * (new - w)
    size = (w @ v.T @ e).abs().max()
    assert gradient.abs().max() < 1e-4 * size, "up to the rounding of the weights to float32"
    assert (new - w).abs().max() > 1e-3


def test_the_metric_sees_blur(clean_registry, tmp_path, monkeypatch):
    from scipy.ndimage import uniform_filter

    from t2i_backdoor_bench.contract import Backdoor, Samples, Target

    install("sharpness", tmp_path, monkeypatch)
    metric = registry.metrics.build("sharpness", "shapes")
    before = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    blurred = np.stack([uniform_filter(x, (3, 3, 1)) for x in before])
    same, less = (
        metric.compute(
            Samples(
                [],
                [],
                Backdoor(None, Target("unknown")),
                {"clean": x},
                {"clean": before},
                np.zeros(0),
            ),
            None,
        )
        for x in (before, blurred)
    )
    assert same.value == pytest.approx(1)
    assert less.value < 0.2


def test_the_ten_lines_of_the_readme(clean_registry, tiny_model, pair, tmp_path, monkeypatch):
    """Every weight ends in the middle between the given and the clean model; with share=1 the clean
    model comes back."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(encoding="utf-8"), re.S
    )
    (tmp_path / "readme_defense.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("readme_defense", None)
    importlib.import_module("readme_defense")
    clean, given = pair
    before, goal, view = (
        weights(given),
        weights(clean),
        DefenderView(("clean_model",), ["a red heart"], clean_model=clean),
    )
    for share in (0.5, 1.0):
        repaired = weights(
            registry.defenses.build("half_step", "shapes", {"share": share}).apply(given, view, 0)
        )
        for name, weight in repaired.items():
            if name.startswith("unet."):
                torch.testing.assert_close(weight, before[name].lerp(goal[name], share))
    assert different(before, weights(given)) == set()
    assert {line for line in code.splitlines() if line.startswith("from")} == {
        "from dataclasses import dataclass",
        "from t2i_backdoor_bench.contract import Defense, option, register_defense",
    }


# ------------------------------------------------------------------------------------ third parties
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


def test_a_package_registers_through_its_entry_point(package, tiny, tmp_path):
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
    from t2i_backdoor_bench.report.formats import method_list

    method_list.show([])


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


def test_scales_of_the_pages_exist():
    assert "quick" in SCALES
    assert Registry("defense", Defense).entries == {}
