"""The registry: names, groups, options and their ranges."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from t2i_backdoor_bench.contract import (
    Attack,
    Registry,
    UserError,
    family_defaults,
    option,
    register_metric,
)


def make() -> Registry:
    registry = Registry("attack", Attack)
    registry._loaded = True

    @registry.register("alpha", groups=("first", "both"), edits="x")
    @registry.register("alpha_fast", groups=("both",), preset={"steps": 7})
    @dataclass
    class Alpha(Attack):
        """What alpha is.

        More.
        """

        steps: int = option(10, sd=1000, low=1, high=5000)
        lr: float = option(0.1, sd=0.001, above=0, help="rate")
        name: str = option("n")
        on: bool = option(False)
        place: tuple[int, int] = option((0, 0))
        free: dict = dataclasses.field(default_factory=dict)

        def check(self) -> None:
            if self.name == "x" and not self.on:
                raise UserError("the name x does not go with on=false")

    return registry


def test_registered_names_groups_and_info() -> None:
    registry = make()
    assert registry.groups == {
        "all": ["alpha_fast", "alpha"],
        "both": ["alpha_fast", "alpha"],
        "first": ["alpha"],
    }
    entry = registry.get("alpha")
    assert entry.summary == "What alpha is."
    assert (entry.edits, entry.needs, entry.better) == ("x", (), "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ["alpha_fast", "alpha"]),
        ("first", ["alpha"]),
        ("alpha, alpha_fast", ["alpha", "alpha_fast"]),
        ("first,both,", ["alpha", "alpha_fast"]),
        ("alpha+alpha_fast,alpha", ["alpha+alpha_fast", "alpha"]),
    ],
)
def test_selection(text: str, expected: list[str]) -> None:
    assert make().select(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alhpa", r"unknown attack 'alhpa'.*did you mean.*alpha"),
        ("zzz", "known: .*alpha"),
        ("alpha+zzz", "zzz"),
        ("", "no attack named"),
        (" ,", "no attack"),
    ],
)
def test_bad_selections_name_what_is_near(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make().select(text)
    assert "\n" not in str(error.value)


def test_defaults_by_family_then_preset_then_override() -> None:
    registry = make()
    assert (registry.build("alpha", "shapes").steps, registry.build("alpha", "sd").steps) == (
        10,
        1000,
    )
    assert (registry.build("alpha", "sd").lr, registry.build("alpha", "sd").name) == (0.001, "n")
    assert registry.build("alpha_fast", "sd").steps == 7
    assert registry.build("alpha_fast", "sd", {"steps": "12"}).steps == 12
    registry.register("alpha_own", preset={"name": "own"}, tuned={"lr": 0.2})(
        registry.get("alpha").cls
    )
    assert (registry.build("alpha_own", "shapes").lr, registry.build("alpha_own", "sd").lr) == (
        0.2,
        0.001,
    )
    assert registry.build("alpha_own", "shapes", {"lr": "0.3"}).lr == 0.3
    assert family_defaults(registry.get("alpha").cls, "shapes")["lr"] == 0.1
    with pytest.raises(ValueError, match="unknown model family"):
        registry.build("alpha", "flux")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "3", 3),
        ("lr", "1e-3", 0.001),
        ("name", "5", "5"),
        ("on", "yes", True),
        ("on", "False", False),
        ("place", "3,4", (3, 4)),
        ("place", "3x4", (3, 4)),
    ],
)
def test_overrides_are_typed(key: str, text: str, value: object) -> None:
    got = getattr(make().build("alpha", "shapes", {key: text}), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("steps", "3.5", "alpha.steps is '3.5'; it must be a whole number"),
        ("lr", "fast", "alpha.lr is 'fast'; it must be a number"),
        ("on", "maybe", "it must be true or false"),
        ("place", "a,b", "place"),
        ("stepps", "3", "no option 'stepps'; it has steps"),
        ("free", "x", "cannot be set"),
    ],
)
def test_bad_overrides_are_user_errors(key: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make().build("alpha", "shapes", {key: text})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "alpha.steps is 0; it must be 1 to 5000"),
        ({"steps": "5001"}, "alpha.steps is 5001; it must be 1 to 5000"),
        ({"steps": 2.0}, "alpha.steps is 2.0; it must be a whole number"),
        ({"steps": True}, "alpha.steps is True; it must be a whole number"),
        ({"lr": 0}, "alpha.lr is 0; it must be above 0"),
        ({"lr": "nan"}, "alpha.lr is nan; give a finite number"),
        ({"name": 3}, "alpha.name is 3; it must be a text"),
        ({"name": "x"}, "the name x does not go with on=false"),
    ],
)
def test_values_out_of_range_are_user_errors(options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        make().build("alpha", "shapes", {"on": False} | options)
    assert str(error.value) == message


def test_ranges_in_words() -> None:
    def words(default: object, **limits: object) -> str:
        return option(default, **limits).metadata["option"].allowed

    assert words(1) == ""
    assert words(1, low=1) == "1 or more"
    assert words(1, high=3) == "3 or less"
    assert words(1, low=0, high=3) == "0 to 3"
    assert words(1.0, above=0) == "above 0"
    assert words(1.0, above=0, high=2) == "above 0, 2 or less"
    assert words("", choices=("", "a")) == "nothing, a"
    with pytest.raises(ValueError, match="source 'memory' is not one of paper"):
        option(1, source="memory")


def define(registry: Registry, place: str, default: int) -> type:
    """The class Beta of a module, registered as a decorator does it."""

    @dataclass
    class Beta(Attack):
        """What beta is."""

        steps: int = option(default, low=1)

    Beta.__module__ = place
    return registry.register("beta")(Beta)


def test_a_notebook_that_defines_its_class_again_replaces_it() -> None:
    registry = make()
    define(registry, "__main__", 3)
    new = define(registry, "__main__", 5)
    assert registry.get("beta").cls is new
    assert registry.build("beta", "shapes").steps == 5


def test_a_name_that_another_module_has_is_refused() -> None:
    registry = make()
    define(registry, "__main__", 3)
    with pytest.raises(ValueError, match="attack 'beta' is already registered by __main__"):
        define(registry, "other", 3)
    assert registry.build("beta", "shapes").steps == 3


def test_what_cannot_be_a_method_is_refused() -> None:
    registry = make()
    with pytest.raises(ValueError, match="already registered"):
        registry.register("alpha")(type("Other", (Attack,), {}))
    with pytest.raises(TypeError, match="must be a dataclass"):
        registry.register("gamma")(type("Gamma", (), {}))
    with pytest.raises(
        TypeError, match=r"must be a subclass of t2i_backdoor_bench\.contract\.Attack"
    ):
        registry.register("gamma")(dataclass(type("Gamma", (), {})))
    with pytest.raises(ValueError, match="sideways"):
        register_metric("gamma", better="sideways")


def test_entry_points_of_other_packages_are_loaded(monkeypatch) -> None:
    loaded = []

    class Point:
        name, dist = "plugin", None

        def load(self) -> None:
            loaded.append("attack")

    monkeypatch.setattr(
        "t2i_backdoor_bench.contract.plugged.entry_points",
        lambda group: [Point()] if group == "t2i_backdoor_bench.attacks" else [],
    )
    registry = Registry("attack", Attack)
    registry.load()
    registry.load()
    assert loaded == ["attack"]
