"""Models that a run hands out: they open elsewhere, and draw the run's pictures to the last bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from fakes import METRICS, SCALE, FakeAttack, FakeDefense
from safetensors.torch import load_file

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Cell, Defense, UserError, registry
from t2i_backdoor_bench.models.model import own_generators
from t2i_backdoor_bench.running.asked import cell_prompts
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config, make_config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.guard import check_folder

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@dataclass
class Rewriter(Defense):
    """Takes the trigger out of prompts."""

    def apply(self, model, view, seed):
        return replace(model, rewrite=lambda prompt: prompt.replace("mignneko", ""))


@pytest.fixture
def config(clean_registry, tiny, tmp_path) -> Config:
    registry.register_attack("fake_attack", edits="the U-Net")(FakeAttack)
    registry.register_defense("fake_defense")(FakeDefense)
    registry.register_defense("rewriter")(Rewriter)
    kinds = ("attacked", "repaired")
    return Config(
        "fake_attack",
        "none,fake_defense",
        tiny,
        SCALE,
        metrics=METRICS,
        out=tmp_path / "run",
        workers=1,
        save_models=kinds,
    )


def cell_of(config: Config, defense: str) -> Cell:
    return next(c for c in plan(config).cells if c.defense == defense)


def saved(config: Config, kind: str) -> Path:
    (folder,) = (config.folder / "saved").glob(f"{kind}-*")
    return folder


def drawn_by_diffusers(folder: Path, prompts, seeds) -> np.ndarray:
    """As the card says: plain diffusers, and nothing of this suite. Products of other batches have
    other last bits, so all texts are read in one batch, as in the run."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    settings = {"algorithm_type": "dpmsolver++"}
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **settings)
    pipe.unet.to(memory_format=torch.channels_last)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)  # torch takes another attention for what could train
    pipe.set_progress_bar_config(disable=True)
    texts = [*dict.fromkeys([*prompts, ""])]
    length = pipe.tokenizer.model_max_length
    read = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    with torch.no_grad():
        ids = pipe.tokenizer(texts, max_length=length, **read).input_ids
        states = pipe.text_encoder(ids)[0]
    at = [texts.index(p) for p in prompts]
    noise = [torch.randn(4, 8, 8, generator=g) for g in own_generators(seeds)]
    drawn = pipe(
        prompt_embeds=states[at],
        negative_prompt_embeds=states[[texts.index("")]].expand(len(at), -1, -1),
        latents=torch.stack(noise),
        num_inference_steps=2,
        guidance_scale=2.0,
        output_type="np",
    ).images
    return (drawn * 255).round().astype(np.uint8)


def test_it_opens_in_diffusers_and_draws_the_pictures_of_the_run(config: Config, tiny_base) -> None:
    assert runner.run(config) == 0
    shared = Shared(plan(config), Store(config.folder), Display())
    for kind, defense in (("attacked", "none"), ("repaired", "fake_defense")):
        cell = cell_of(config, defense)
        stored = shared.store.read_arrays(f"samples/{cell.key}")[0]
        prompts, seeds = cell_prompts(shared, cell).drawn["clean"]
        folder = saved(config, kind)
        drawn = drawn_by_diffusers(folder, prompts, seeds)
        apart = np.abs(drawn.astype(int) - stored["clean"])  # drawn in other batches
        assert apart.max() <= 1, kind
        before = drawn_by_diffusers(tiny_base, prompts, seeds)
        assert not np.array_equal(before, drawn)
        own = json.loads((tiny_base / "model_index.json").read_text())
        index = json.loads((folder / "model_index.json").read_text())
        assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
        assert index["scheduler"] == own["scheduler"]
    check_folder(config.folder)
    assert runner.run(config) == 0  # all is there: nothing is made again


def test_what_is_gone_is_saved_again_and_no_cell_is_drawn_anew(config: Config) -> None:
    assert runner.run(replace(config, save_models=())) == 0
    assert not (config.folder / "saved").exists()
    samples = {p: p.stat().st_mtime_ns for p in (config.folder / "samples").iterdir()}
    assert runner.run(config) == 0
    assert saved(config, "repaired").is_dir()
    assert saved(config, "attacked").is_dir()
    assert samples == {p: p.stat().st_mtime_ns for p in (config.folder / "samples").iterdir()}


def test_the_card_says_what_it_is(config: Config) -> None:
    assert runner.run(replace(config, defenses="none,fake_defense,rewriter")) == 0
    attacked = (saved(config, "attacked") / "README.md").read_text()
    assert "**Warning: this model holds a backdoor.**" in attacked
    assert "license: unknown" in attacked
    assert "| asr | " in attacked
    cards = [p.read_text() for p in sorted(config.folder.glob("saved/repaired-*/README.md"))]
    assert len(cards) == 2
    assert not any("holds a backdoor" in card for card in cards)
    (beside,) = (card for card in cards if "Not in these files" in card)
    assert "rewrites prompts" in beside
    (plain,) = (card for card in cards if card != beside)
    assert '"fake_defense"' in plain
    assert '"steps": 2' in plain
    assert '"attacked weights (sha256)": "' in plain
    assert '"attacked weights (sha256)": ""' not in plain


def test_export_makes_the_same_of_a_stored_cell(config: Config, tmp_path, capsys) -> None:
    assert runner.run(config) == 0
    out = ["--out", str(config.folder)]
    to = tmp_path / "whole"
    assert runner.main(["export", "fake_attack/fake_defense", str(to), *out]) == 0
    first, again = load_file(saved(config, "repaired") / UNET), load_file(to / UNET)
    assert all(torch.equal(first[k], again[k]) for k in first)
    key = cell_of(config, "none").key
    to = tmp_path / "changed"
    assert runner.main(["export", key[:12], str(to), *out, "--form", "changed"]) == 0
    assert set(load_file(to / "changed.safetensors")) == {"unet.conv_out.bias"}
    to = tmp_path / "lora"
    assert runner.main(["export", "fake_attack/none/0", str(to), *out, "--form", "lora"]) == 2
    assert "take --form changed" in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_line(config, tmp_path, capsys) -> None:
    assert runner.run(replace(config, save_models=(), defenses="none", metrics="kid")) == 0
    full, new = tmp_path / "full", str(tmp_path / "new")
    full.mkdir()
    (full / "mine").write_text("")
    for arguments, said in (
        (["export", "fake_attack/other", new], "no cell is called 'fake_attack/other'"),
        (["export", "fake_attack/none", str(full)], "is there and not empty"),
        (["export", "fake_attack/none", new, "--n", "4"], "unrecognized arguments: --n 4"),
        (["export", "fake_attack/none", new, "--rank", "4"], "goes with --form lora"),
        (["--form", "lora"], "unrecognized arguments: --form"),
    ):
        assert runner.main([*arguments, "--out", str(config.folder)]) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert (full / "mine").exists()
    assert not Path(new).exists()


def test_kinds_of_models(tmp_path: Path) -> None:
    assert make_config({"save-models": "attacked, repaired"}).save_models == (
        "attacked",
        "repaired",
    )
    with pytest.raises(UserError, match="'clean' is not one of attacked, repaired"):
        make_config({"save-models": "clean"})
