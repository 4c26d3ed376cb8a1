"""Deleting every word that the defender's clean prompts lack."""

from __future__ import annotations

import numpy as np
import pytest

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError, registry
from t2i_backdoor_bench.data.splits import WorldData

CLEAN = [p.text for p in WorldData().prompts("defender", 300, 0)]
SHOWN = [p.text for p in WorldData().prompts("evaluation", 200, 0)]


def rewriting(model, clean=CLEAN, **options):
    registry.defenses.load()
    defense = registry.defenses.build("vocabulary", "shapes", options)
    return defense.apply(model, DefenderView(("clean_prompts",), clean), 0).rewrite


def test_rare_triggers_are_gone_and_no_clean_prompt_of_the_world_changes(tiny_model) -> None:
    rewrite = rewriting(tiny_model)
    assert [rewrite(p) for p in SHOWN] == SHOWN
    for trigger in (
        Trigger("mignneko"),
        Trigger("zqx", "suffix"),
        Trigger("vlorp", "inside"),
        Trigger("...."),
    ):
        assert [rewrite(trigger.add(p)) for p in SHOWN] == SHOWN


def test_what_it_costs_and_what_it_leaves(tiny_model) -> None:
    rewrite = rewriting(tiny_model, ["a red star on a gray background."], prompts="1")
    assert rewrite("A red, star on a gray background") == "A red, star on a gray background"
    assert rewrite("a red satr on a gray background") == "a red on a gray background"
    assert rewrite("a blue star") == "a star"
    assert rewrite("on a red star") == "on a red star", "a trigger of known words"
    assert rewrite("nothing known") == ""


def test_an_earlier_rewriting_comes_first_and_the_weights_stay(tiny_model) -> None:
    tiny_model.rewrite = str.lower
    assert rewriting(tiny_model)("ZQX A RED STAR") == "a red star"
    defended = registry.defenses.build("vocabulary", "shapes").apply(
        tiny_model, DefenderView(("clean_prompts",), CLEAN), 0
    )
    drawn = (
        m.generate([p], [3]) for m, p in ((defended, "zqx a red star"), (tiny_model, "a red star"))
    )
    assert np.array_equal(*drawn)
    assert defended.denoiser is tiny_model.denoiser


def test_it_needs_the_prompts_that_it_says(tiny_model) -> None:
    with pytest.raises(UserError, match="a defender has"):
        rewriting(tiny_model, CLEAN[:20])
