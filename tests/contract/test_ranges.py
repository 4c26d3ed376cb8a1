"""Every option of every registered method has a range, and the plan refuses what is outside."""

from __future__ import annotations

import math
import typing
from typing import Any

import pytest

from t2i_backdoor_bench.contract import Registry, UserError, registry
from t2i_backdoor_bench.contract.options import Option, check_values, family_defaults, options_of
from t2i_backdoor_bench.contract.registry import FAMILIES
from t2i_backdoor_bench.running.choose_methods import build

KINDS = (registry.attacks, registry.defenses, registry.metrics)
for _kind in KINDS:
    _kind.load()
METHODS = [(kind, name) for kind in KINDS for name in kind.entries]


def outside(found: Option, kind: type) -> list[Any]:
    """Values that an option must refuse."""
    if found.choices:
        return ["foo", "FOO "]
    values = [] if found.low is None else [found.low - 1, -1e9]
    values += [] if found.high is None else [found.high + 1]
    values += [] if found.above is None else [found.above, found.above - 1]
    numbers = [kind(value) for value in values]
    return numbers + ([math.nan, math.inf, -math.inf] if kind is float else [])


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=[n for _, n in METHODS])
def test_a_value_out_of_range_is_refused_in_one_line(kind: Registry, name: str):
    cls = kind.entries[name].cls
    hints = typing.get_type_hints(cls)
    for option, (_, found) in options_of(cls).items():
        if hints[option] not in (int, float) and not found.choices:
            continue
        assert found.allowed, "a number or a name has a range"
        for value in outside(found, hints[option]):
            for given in (value, str(value)):  # from Python, and from the command line
                with pytest.raises(UserError) as error:
                    kind.build(name, "shapes", {option: given})
                text = str(error.value)
                assert text.startswith(f"{name}.{option} is "), text
                assert "\n" not in text
                assert found.allowed in text or "finite" in text


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=[n for _, n in METHODS])
def test_the_defaults_are_inside(kind: Registry, name: str):
    entry = kind.entries[name]
    for family in FAMILIES:
        check_values(name, entry.cls, family_defaults(entry.cls, family) | entry.preset)
        for training in (1.0, 0.07):
            build(kind, name, family, {}, training).instance.check()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("skdcag", {"alpha": "7"}, "skdcag.alpha is 7; it must be 0 to 1"),
        ("skdcag", {"steps": "-5"}, "skdcag.steps is -5; it must be 1 or more"),
        ("skdcag", {"lr": "-1"}, "skdcag.lr is -1; it must be above 0"),
        ("skdcag", {"lr": "nan"}, "skdcag.lr is nan; give a finite number"),
        ("skdcag", {"batch": "0"}, "skdcag.batch is 0; it must be 1 or more"),
        ("concept_prune", {"share": "2"}, "concept_prune.share is 2; it must be 0 to 1"),
        ("skdcag", {"train": "foo"}, "skdcag.train is 'foo'; choose one of: full, "),
        ("skdcag", {"latents": "trajectory", "bias": "2"}, "trajectories have their own"),
        ("finetune_reversal", {"batch": "1"}, "give batch=2 or more"),
        ("daa_i", {"first": "4", "last": "3"}, "give first at most last"),
        ("daa_s", {"stop": "horizon", "horizon": "60"}, "beyond the 50 steps"),
    ],
)
def test_what_a_user_reads(method: str, options: dict, message: str):
    with pytest.raises(UserError) as error:
        registry.defenses.build(method, "shapes", options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("badt2i_pixel", {"corner": "middle"}, "corner is 'middle'; choose one of: top_left"),
        ("badt2i_pixel", {"place": "foo"}, "place is 'foo'; choose one of: prefix, suffix, in"),
        ("badt2i_pixel", {"trigger": ""}, "the trigger is empty"),
        ("badt2i_pixel", {"picture": "no_such_file.png"}, "no_such_file.png"),
        ("badt2i_style", {"style": "foo"}, "style is 'foo'; choose one of: black and white"),
        ("badt2i_object", {"target": "star"}, "both 'star'"),
        ("badt2i_object", {"source": ""}, "must both name an object"),
        ("masqlora", {"rank": "0"}, "masqlora.rank is 0; it must be 1 or more"),
        ("paas_db", {"template": "a photo of [V]"}, "has no {}"),
        ("bibaddiff", {"weight": "0.0001"}, "poisons some, and not all"),
        ("sembd", {"context": "phrase", "trigger": "a b", "paraphrases": ""}, "three words"),
        ("rickrolling_tpa", {"target": " "}, "target prompt is empty"),
        ("iba", {"trigger": "{a b|c} x"}, "holds a space"),
        ("checkpoint", {"source": "dog"}, "wants both source and target"),
    ],
)
def test_what_an_attacker_reads(method: str, options: dict, message: str):
    with pytest.raises(UserError) as error:
        registry.attacks.build(method, "shapes", options)
    assert message in str(error.value)


def test_a_scaled_method_is_checked_again():
    """One of 1,000 pictures is poisoned; of fewer pictures, none would be."""
    options = {"weight": 0.001}
    assert build(registry.attacks, "bibaddiff", "shapes", options, 1.0).instance.poisoned == 1
    with pytest.raises(UserError, match="poisons some, and not all"):
        build(registry.attacks, "bibaddiff", "shapes", options, 0.07)
