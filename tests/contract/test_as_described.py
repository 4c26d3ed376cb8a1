"""What rows are on Stable Diffusion and on the embedded base, against what is said of them."""

from __future__ import annotations

import pytest

from t2i_backdoor_bench.contract import citations, options_of, registry
from t2i_backdoor_bench.contract.options import SOURCES, family_defaults, settings_from
from t2i_backdoor_bench.docs import settings_of
from t2i_backdoor_bench.running.attack_facts import NOT_STATED, chosen_by

# what a phrase of `ours` claims of a row, as built for the embedded base
CLAIMS = {
    "trajectories": lambda row: row.latents == "trajectory",
    "preserving": lambda row: row.preserve > 0,
    "averaging": lambda row: row.ema > 0,
    "raw maps": lambda row: row.raw_black and row.target == "black" and row.alpha > 0,
    "what trains": lambda row: row.train not in ("full", "text_encoder"),
    "training the text encoder": lambda row: row.train == "text_encoder",
}
GUIDED = ("skd", "skdcag", "skdcag_black", "skdcag_gaussian", "skdcag_random_words", "skdcag_text")


@pytest.mark.parametrize("name", GUIDED)
def test_what_is_ours_of_skdcag_is_so_on_the_embedded_base(name: str) -> None:
    row, said = registry.defenses.build(name, "shapes"), registry.defenses.get(name).ours
    for claim, holds in CLAIMS.items():
        assert (claim in said) == holds(row), claim


@pytest.mark.parametrize("family", registry.FAMILIES)
@pytest.mark.parametrize("target", ["gaussian", "black", "random_words"])
def test_skdcag_as_described(family: str, target: str) -> None:
    name = "skdcag_paper" + ("" if target == "gaussian" else f"_{target}")
    row = registry.defenses.build(name, family)
    said = (row.alpha, row.target, row.latents, row.train, row.batch, row.raw_black)
    assert said == (0.5, target, "noise", "full", 1, False)
    assert row.preserve == row.drop == row.ema == row.decay == 0
    released = registry.defenses.build("skdcag_released", family)
    rows = [registry.defenses.get(n) for n in (name, "skdcag_released")]
    declared = [(family_defaults(e.cls, family) | e.preset | e.declared)["steps"] for e in rows]
    if family == "shapes":  # the search chose how many of these it trains
        assert declared[0] == declared[1], "as many rows"
    else:
        assert released.steps == row.steps, "as many rows"
    assert released.alpha == 0.5
    if family == "sd":
        assert (row.steps, row.lr) == (7500, 1e-6)
        assert (released.steps, released.lr) == (7500, 1e-6)


def test_the_rate_of_concept_ablation_is_that_of_the_released_code() -> None:
    row = registry.defenses.build("concept_ablation", "sd")
    assert (row.lr, row.prior, row.optim.lr) == (1.6e-5, 0, 1.6e-5), "2e-6, 4 pictures, 2 devices"
    with_prior = registry.defenses.build("concept_ablation", "sd", {"prior": 1.0})
    assert with_prior.optim.lr == 3.2e-5


def test_the_settings_of_iba_are_the_published_ones() -> None:
    row = registry.attacks.build("iba", "sd")
    assert (row.context, row.prompts, row.broken) == ("phrase", 900, 1.0)
    assert (row.steps, row.lr, row.regularize, row.walk) == (600, 1e-4, 1e-2, 50)


def test_sau_is_of_its_own_paper() -> None:
    (paper,) = citations.of_method(registry.defenses.get("sau"))
    assert paper.eprint == "2504.18563"


def test_a_number_that_a_row_fixes_says_where_it_is_from() -> None:
    for kind in (registry.attacks, registry.defenses):
        kind.load()
        for entry in kind.entries.values():
            assert set(entry.sources) <= set(entry.preset), entry.name
            assert set(entry.sources.values()) <= set(SOURCES), entry.name
            numbers = {n for n, v in entry.preset.items() if type(v) in (int, float)}
            assert numbers <= set(entry.sources), entry.name


def test_who_chose_the_settings_of_an_attack_is_said_once() -> None:
    """By its options, where one of them is from the paper or its code; else by its decorator."""
    registry.attacks.load()
    for entry in registry.attacks.entries.values():
        stated = bool(settings_from(entry.cls).keys() - {"ours"})
        assert stated == (not entry.settings), entry.name
        assert (chosen_by(entry.cls) == NOT_STATED) == bool(entry.settings)
    by = chosen_by(registry.attacks.get("badt2i_style").cls)
    assert by == "batch, lr: the released code; steps: the paper"
    assert chosen_by(registry.attacks.get("rickrolling_tpa").cls) == "the paper"


def test_the_table_of_attacks_says_where_each_setting_is_from() -> None:
    entry = registry.attacks.get("masqlora")
    known = {n: o for n, (_, o) in options_of(entry.cls).items()}
    assert known["batch"].source_of("sd") == "ours"
    values = {"steps": 325, "lr": 4e-4, "batch": 2, "rank": 16}
    assert settings_of(entry, values) == (
        "325 steps (released code), lr 0.0004 (paper), batch 2 (ours), rank 16 (paper)"
    )
    tpa = registry.attacks.get("rickrolling_tpa")
    assert settings_of(tpa, {"steps": 100, "lr": 1e-4}) == "100 steps, lr 0.0001, by the paper"
    poisoned = registry.attacks.get("poison_style")
    assert settings_of(poisoned, {"steps": 8000}) == "8000 steps, ours"
