"""What a defense may see."""

from __future__ import annotations

import numpy as np
import pytest

from t2i_backdoor_bench.contract import (
    NEEDS,
    DefenderView,
    Trigger,
    Undeclared,
    UserError,
    register_defense,
)

GIVEN = {
    "trigger": Trigger("x"),
    "clean_pairs": (np.zeros((1, 8, 8, 3), np.uint8), ["a"]),
    "stream": ["x a prompt"],
}


@pytest.mark.parametrize(
    "needs", [(), ("trigger",), ("trigger", "clean_model"), ("clean_pairs",), NEEDS]
)
def test_a_view_gives_what_was_declared_and_nothing_else(needs: tuple[str, ...]) -> None:
    class Model:
        def generate(self) -> None: ...

        def __call__(self) -> None:
            raise AssertionError("a model must be handed over, not called")

    model = Model()
    view = DefenderView(needs, ["a prompt"], clean_model=model, **GIVEN)
    assert view.prompts == ["a prompt"]
    for name in NEEDS:
        if name in needs:
            assert getattr(view, name) is (model if name == "clean_model" else GIVEN[name])
        else:
            with pytest.raises(Undeclared, match=name):
                getattr(view, name)
    hidden = [v for k, v in vars(view).items() if k != "prompts"]
    held = [x for v in hidden for x in (v.values() if isinstance(v, dict) else [v])]
    for name in set(NEEDS) - set(needs):
        assert not any(x is (model if name == "clean_model" else GIVEN[name]) for x in held), (
            "not even in its private fields"
        )


def test_a_view_makes_what_is_expensive_only_when_it_is_read() -> None:
    made = []

    def clean_model() -> str:
        made.append(1)
        return "model"

    view = DefenderView(("clean_model",), [], clean_model=clean_model)
    assert not made
    assert view.clean_model == "model"
    assert made


def test_a_view_does_not_share_its_prompt_list() -> None:
    prompts = ["a", "b"]
    DefenderView((), prompts).prompts.append("c")
    assert prompts == ["a", "b"]


def test_a_defense_gets_the_number_of_prompts_it_asked_for_or_an_error() -> None:
    view = DefenderView((), ["a", "b", "c"])
    assert view.first(2) == ["a", "b"]
    assert view.first(3) == ["a", "b", "c"]
    for wrong in (4, 0, -1):
        with pytest.raises(UserError, match=f"prompts {wrong} is not between 1 and the 3"):
            view.first(wrong)


def test_unknown_needs_are_an_error() -> None:
    with pytest.raises(ValueError, match="budget"):
        DefenderView(("budget",), [])
    with pytest.raises(ValueError, match="budget"):
        register_defense("x", needs=("budget",))


def test_undeclared_is_not_a_user_error() -> None:
    assert not issubclass(Undeclared, UserError)
    assert issubclass(Undeclared, PermissionError)
