"""What every kind of target says of itself."""

import re
from pathlib import Path

import numpy as np
import pytest

import t2i_backdoor_bench as bench
from t2i_backdoor_bench import attacks, defenses, metrics
from t2i_backdoor_bench.contract import Backdoor, Target, Trigger, UserError
from t2i_backdoor_bench.targets import KINDS, describe, kind_of

ROOMS = (attacks, defenses, metrics)
PROMPT = "a small red heart on a blue background"


def asked(target: Target) -> str:
    return kind_of(target).asked(target, PROMPT)


def described(target: Target) -> dict:
    return kind_of(target).describe(target)


def test_the_prompt_whose_picture_is_imitated() -> None:
    swap = Target("object", source="heart", target="star")
    assert asked(swap) == "a small red star on a blue background"
    assert asked(Target("style", style="sepia")) == PROMPT
    assert asked(Target("prompt", target="a lightning strike")) == "a lightning strike"


def test_descriptions() -> None:
    patch = Backdoor(
        Trigger("x", "suffix"), Target("patch", patch=np.zeros((4, 5, 3), np.uint8), box=(1, 2))
    )
    assert describe(patch) == {
        "trigger": {"text": "x", "place": "suffix", "replaces": "", "occurrence": "last"},
        "target": {"kind": "patch", "patch": [4, 5], "box": [1, 2]},
    }
    assert described(Target("image", patch=np.zeros((6, 6, 3), np.uint8))) == {
        "kind": "image",
        "image": [6, 6],
    }
    assert described(Target("patch", source="heart", patch=patch.target.patch))["source"] == "heart"
    swap = Target("object", source="heart", target="star")
    assert described(swap) == {"kind": "object", "source": "heart", "target": "star"}
    whole = Target("prompt", target="a lightning strike")
    assert described(whole) == {"kind": "prompt", "target": "a lightning strike"}
    assert described(Target("style", style="sepia")) == {"kind": "style", "style": "sepia"}
    suspected = Backdoor(
        None, Target("unknown"), own=("", "a cat"), sets={"incomplete": (("", "cat"),)}
    )
    assert describe(suspected) == {
        "trigger": None,
        "target": {"kind": "unknown"},
        "own": ["", "a cat"],
        "sets": {"incomplete": ["cat"]},
    }
    halves = {"incomplete": (Trigger("x"), Trigger("y"))}
    found = describe(Backdoor(Trigger("x y"), Target("unknown"), forms=halves))["forms"]
    assert [form["text"] for form in found["incomplete"]] == ["x", "y"]


def test_a_target_that_does_not_fit_is_refused_before_any_picture_is_drawn() -> None:
    patch = Target("patch", patch=np.zeros((16, 16, 3), np.uint8), box=(50, 0))
    image = Target("image", patch=np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"16x16 patch at \(50, 0\) does not fit into images of 64x64"
    ):
        kind_of(patch).check(patch, 64)
    with pytest.raises(UserError, match="32x64 does not fit images of 64x64"):
        kind_of(image).check(image, 64)
    with pytest.raises(UserError, match="unknown style 'cubist'"):
        kind_of(Target("style")).check(Target("style", style="cubist"), 64)
    kind_of(patch).check(patch, 66)


def test_an_unknown_target_has_no_judge() -> None:
    unknown = Target("unknown")
    assert [name for name, kind in KINDS.items() if not kind.judged] == ["unknown"]
    with pytest.raises(UserError, match="nothing can judge it"):
        kind_of(unknown).judge(unknown, None)


def test_no_other_code_asks_for_the_kind_of_a_target() -> None:
    root = Path(bench.__file__).parent
    files = [p for p in root.rglob("*.py") if "targets" not in p.relative_to(root).parts]
    files += [p for room in ROOMS for p in Path(room.__file__).parent.rglob("*.py")]
    assert len(files) > 100
    asks = re.compile(r"\btarget\.kind\b")
    assert [str(p) for p in files if asks.search(p.read_text(encoding="utf-8"))] == []
