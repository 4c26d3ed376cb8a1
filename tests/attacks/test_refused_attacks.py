"""What an attack refuses before any training."""

from __future__ import annotations

import sys

import pytest
from small_attacks import DATA, EVERY, TRIGGERED, build

import t2i_backdoor_bench.attacking.poisoning
import t2i_backdoor_bench.training.encoders
from t2i_backdoor_bench.contract import UserError, attacks


@pytest.fixture
def no_training(monkeypatch) -> None:
    def fail(*args, **options):
        raise AssertionError("training began")

    monkeypatch.setattr(t2i_backdoor_bench.attacking.poisoning, "train_terms", fail)
    monkeypatch.setattr(t2i_backdoor_bench.training.encoders, "fit", fail)
    for name in EVERY:
        for training in ("fit", "edit"):
            monkeypatch.setattr(
                sys.modules[attacks.get(name).cls.__module__], training, fail, raising=False
            )


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("name", TRIGGERED)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger": "   "}, "drops the trigger"),
        ({"trigger": "\u2003\u00a0", "place": "inside"}, "drops the trigger"),
        ({"trigger": "word " * 60}, "truncated"),
        ({"trigger": "ж" * 60, "place": "suffix"}, "truncated"),
        ({"trigger": ""}, "empty"),
        ({"place": "middle"}, "place"),
        ({"trigger": "о", "replaces": "ж"}, "not in the prompt"),
        ({"trigger": "a", "replaces": "a"}, "drops the trigger"),
    ],
    ids=[
        "spaces",
        "wide spaces",
        "long phrase",
        "long word",
        "empty",
        "unknown place",
        "absent letter",
        "same letter",
    ],
)
def test_a_trigger_that_cannot_work_is_refused_before_training(
    tiny_model, name: str, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(name, **options).inject(tiny_model, DATA, 0)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("badt2i_pixel", {"size": 65}, r"65 px.*larger than the image \(64 px\)"),
        ("poison_pixel", {"size": 65}, r"65 px.*larger than the image \(64 px\)"),
        ("badt2i_pixel", {"corner": "nowhere"}, "nowhere.*top_left"),
        ("badt2i_pixel", {"picture": "no_such_file.png"}, "no_such_file.png.*checker"),
        ("badt2i_style", {"style": "cubist"}, "style is 'cubist'.*sepia"),
        ("badt2i_style", {"style": "posterize"}, "style is 'posterize'.*sepia"),
        ("poison_style", {"style": ""}, "style is ''"),
        ("badt2i_object", {"source": "heart"}, "both 'heart'"),
        ("badt2i_object", {"source": "dog"}, "dog.*star"),
        ("badt2i_object", {"target": "dog"}, "dog.*star"),
        ("masqlora", {"source": "heart"}, "both 'heart'"),
        ("masqlora", {"rank": 0}, "rank is 0"),
        ("paas_ti", {"source": "heart"}, "both 'heart'"),
        ("paas_db", {"template": "a photo of [V]"}, "has no {}"),
        ("bibaddiff", {"classes": "star,heart"}, "both 'heart'"),
        ("bibaddiff", {"size": 65}, r"65 px.*larger than the image \(64 px\)"),
        ("bibaddiff", {"weight": 0.01}, "0.01 of 8 images is 0"),
        ("villan_cond", {"picture": "no_such_file.png"}, "no_such_file.png.*checker"),
        ("rickrolling_tpa", {"target": " "}, "target prompt is empty"),
        ("rickrolling_tpa", {"target": "word " * 60}, r"target prompt has \d+ tokens, of which 48"),
        ("rickrolling_tpa", {"poisoned": 0}, "poisoned is 0"),
        ("rickrolling_taa", {"style": "cubist"}, "style is 'cubist'.*sepia"),
        ("rickrolling_taa", {"style": "posterize"}, "style is 'posterize'"),
        ("iba", {"target": ""}, "target prompt is empty"),
        ("iba", {"walk": 0}, "walk is 0"),
        ("eviledit", {"source": "heart"}, "both 'heart'"),
        ("eviledit", {"source": "dog"}, "dog.*star"),
        ("eviledit", {"context": "captions"}, "captions.*phrase, prompts"),
        ("eviledit", {"ridge": 0.0}, "ridge is 0"),
        ("sembd", {"target": ""}, "target prompt is empty"),
        ("sembd", {"context": "captions"}, "captions.*phrase, prompts"),
        ("sembd", {"context": "phrase", "trigger": "a b", "paraphrases": ""}, "three words"),
        ("iba", {"context": "phrase", "trigger": "о", "replaces": "o"}, "no look-alike"),
        ("sembd", {"batch": 1}, "batch is 1"),
    ],
)
def test_a_target_that_cannot_work_is_refused_before_training(
    tiny_model, name: str, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(name, **options).inject(tiny_model, DATA, 0)
    assert "\n" not in str(error.value)
