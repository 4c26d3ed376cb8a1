"""The pages on extending the suite, and the README: the code that they show is run."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import tune
from helpers import different, weights
from page_code import DOCS, PAGES, blocks, import_code, install

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import DefenderView, registry
from t2i_backdoor_bench.running.scales import SCALES, Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 1.0, (0,))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_one_short_file_and_commands_that_exist(name: str):
    page = (DOCS / PAGES[name]).read_text(encoding="utf-8")
    (code,) = blocks(PAGES[name], "python")
    body = code[code.index("@register_") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40, (
        "one file that a newcomer reads in a minute"
    )
    flags = set(re.findall(r"(--[a-z-]+)", page)) - {"--list"}
    parsers = (command.make_parser(), tune.make_parser())
    known = {o for parser in parsers for a in parser._actions for o in a.option_strings}
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
    assert found["mirror"].needs == ("trigger", "clean_prompts")
    assert found["mirror"].knowledge == {"clean_prompts": 3}
    assert found["mirror"].attack["trigger_kind"] == "rare word"
    assert found["mirror"].cost["steps"] == 2
    assert len(found["mirror"].cost["losses"]["mirror"]) == 2
    assert found["none"].scores["sharpness"].n == 4
    assert found["none"].scores["sharpness"].value > 0
    assert "wang2024eviledit" in (config.folder / "report.html").read_text()


def test_the_ten_lines_of_the_readme(clean_registry, tiny_model, pair, tmp_path, monkeypatch):
    """Every weight ends in the middle between the given and the clean model; with share=1 the clean
    model comes back."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(encoding="utf-8"), re.S
    )
    import_code("readme_defense", code, tmp_path, monkeypatch)
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


def test_scales_of_the_pages_exist():
    assert "quick" in SCALES
