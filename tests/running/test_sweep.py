"""Sweeps: what they expand to, what they refuse, how their results read, and a run on a tiny
model."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fakes import CALLS, change, config, fakes, keys, records  # noqa: F401 - fixtures
from PIL import Image

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.names import parts_of
from t2i_backdoor_bench.report.figures import sweeps
from t2i_backdoor_bench.report.main_table import heading
from t2i_backdoor_bench.report.metrics import reading
from t2i_backdoor_bench.report.publish import publish
from t2i_backdoor_bench.running import sweep
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store


def test_parse_and_expand() -> None:
    found = sweep.parse(["a.x=1,2,1", "a.y=p, q", "b.z=0.5"], {"a", "b", "c"}, {})
    assert found["a"] == [
        {"x": "1", "y": "p"},
        {"x": "1", "y": "q"},
        {"x": "2", "y": "p"},
        {"x": "2", "y": "q"},
    ]
    assert sweep.expand("c", found) == {"c": [("c", {})]}
    assert list(sweep.expand("c+b", found)) == ["c+b[z=0.5]"]
    assert list(sweep.expand("a+b", found))[:2] == ["a[x=1,y=p]+b[z=0.5]", "a[x=1,y=q]+b[z=0.5]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skdcag=1,2", "not of the form"),
        ("skdcag.alpha", "not of the form"),
        ("skdcag.alpha=", "not of the form"),
        ("skdcg.alpha=1,2", "did you mean skdcag"),
        ("skdcag.steps=1,2", "set twice"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep.parse([text], {"skdcag", "none"}, {"skdcag": {"steps": "3"}})


def test_names_read_back() -> None:
    name = "a[lr=1e+3,x=2]+b+c[y=z]"
    assert parts_of(name) == ["a[lr=1e+3,x=2]", "b", "c[y=z]"]
    assert sweeps.swept(name) == {"a.lr": "1e+3", "a.x": "2", "c.y": "z"}
    assert sweeps.without(name, "a", "lr") == "a[x=2]+b+c[y=z]"
    assert sweeps.without("a[lr=1]", "a", "lr") == "a"
    assert sweeps.swept("a+b") == {}
    assert sweeps.swept("a+b[y=z]#2") == {"b.y": "z"}, "the second of two attacks in one model"
    assert sweeps.without("a+b[y=z]#2", "b", "y") == "a+b#2"
    for odd in ("a[", "a[]", "[x=1]", "a[x]", "a[x=1", "a[x=1]b"):
        assert sweeps.swept(odd) == {}, "a record of others may hold any name"
        assert sweeps.without(odd, "a", "x") == odd


@pytest.mark.parametrize(
    "name",
    [
        "fake_defense[",
        "fake_defense[]",
        "fake_defense[shift]",
        "fake_defense[shift=1,shift=2]",
        "fake_defense[shift=1",
    ],
)
def test_a_variant_that_is_none_is_one_line(name: str, config) -> None:
    with pytest.raises(UserError, match="not of the form name"):
        plan(change(config, defenses=name))


def test_a_variant_by_name_is_the_cell_of_its_options(config) -> None:
    named = keys(
        change(
            config,
            attacks="fake_attack[shift=0.7]",
            defenses="none,fake_defense[shift=-0.2],fake_defense[ shift = -0.1 ]",
        )
    )
    swept = keys(change(config, sweeps=("fake_defense.shift=-0.2,-0.1", "fake_attack.shift=0.7")))
    assert named == swept
    both = keys(
        change(
            config,
            defenses="fake_defense[shift=-0.2]+fake_defense,fake_defense",
            overrides=("fake_defense.shift=-0.3",),
        )
    )
    assert ("fake_attack", "fake_defense[shift=-0.2]+fake_defense", 0) in both
    with pytest.raises(UserError, match="is set in the name and by --sweep"):
        plan(
            change(
                config, defenses="fake_defense[shift=-0.2]", sweeps=("fake_defense.shift=0.1,0.2",)
            )
        )


def test_values_are_typed_before_any_work(config) -> None:
    with pytest.raises(UserError, match=r"fake_defense\.shift is .* must be a number"):
        plan(change(config, sweeps=("fake_defense.shift=0.1,much",)))
    with pytest.raises(UserError, match="no option"):
        plan(change(config, sweeps=("fake_defense.shft=0.1",)))


def test_cells_of_a_sweep_are_the_cells_of_the_options(config) -> None:
    swept = keys(
        change(config, sweeps=("fake_defense.shift=-0.1,-0.2", "fake_attack.shift=0.5,0.7"))
    )
    assert len(swept) == 6
    alone = keys(change(config, overrides=("fake_defense.shift=-0.2", "fake_attack.shift=0.7")))
    assert (
        swept["fake_attack[shift=0.7]", "fake_defense[shift=-0.2]", 0]
        == alone["fake_attack", "fake_defense", 0]
    )
    assert len(set(swept.values())) == 6


@pytest.mark.figures
def test_a_sweep_runs_resumes_and_plots(config) -> None:
    assert runner.run(config) == 0
    CALLS.clear()
    both = change(
        config, defenses="none,fake_defense", sweeps=("fake_defense.shift=-0.25,-0.4,-0.1",)
    )
    assert runner.run(both) == 0
    assert CALLS == [
        "defense -0.4 0",
        "defense -0.1 0",
    ]  # -0.25 is the default, and stored; the attack is not repeated
    with (config.folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [
        "none",
        "fake_defense[shift=-0.25]",
        "fake_defense[shift=-0.4]",
        "fake_defense[shift=-0.1]",
    ]
    assert [r["defense"] for r in rows] == names
    assert [r["status"] for r in rows] == ["done"] * 4
    line = sweeps.lines_of(rows, "fake_defense.shift")
    assert list(line) == ["fake_attack × fake_defense"]
    assert [v for v, _ in line["fake_attack × fake_defense"]] == ["-0.25", "-0.4", "-0.1"]
    picture = np.asarray(Image.open(config.folder / "sweep-fake_defense.shift.png").convert("RGB"))
    assert picture.std() > 5  # something is drawn
    page = (config.folder / "report.html").read_text("utf-8")
    curves = page[page.index('<section id="curves">') :].partition("</section>")[0]
    assert "<h3>fake_defense.shift</h3>" in curves
    assert "fake_attack × fake_defense, -0.4:" in curves, "a mark says its numbers"
    CALLS.clear()
    stale = config.folder / "sweep-older.name.png"
    stale.write_bytes(b"of an earlier plan")
    assert runner.run(both) == 0
    assert CALLS == []
    publish(Store(config.folder), show=False)
    assert not stale.exists()
    assert (config.folder / "sweep-fake_defense.shift.png").exists()


def test_an_option_that_several_defenses_have_has_one_figure_for_each_attack() -> None:
    table = [
        {"attack": attack, "defense": f"{defense}[steps={steps}]"}
        for attack in ("a", "b[lr=1]")
        for defense in ("c", "d")
        for steps in (5, 10)
    ]
    table += [{"attack": "a", "defense": f"c[alpha={v}]"} for v in (0, 1)]
    table += [{"attack": f"b[steps={v}]", "defense": "none"} for v in (7, 8)]
    found = sweeps.figures_of(table)
    both = {"c": ["5", "10"], "d": ["5", "10"]}
    assert {
        name: (axis, {n: [v for v, _ in points] for n, points in lines.items()})
        for name, (axis, lines) in found.items()
        if name != "b.lr"  # one value, of which `write_plots` draws nothing
    } == {
        "steps-a": ("steps, against a", both),
        "steps-b[lr=1]": ("steps, against b[lr=1]", both),
        "c.alpha": ("c.alpha", {"a × c": ["0", "1"]}),
        "b.steps": ("b.steps", {"b × none": ["7", "8"]}),
    }


def test_places_of_values() -> None:
    assert sweeps.places(["5", "10", "20"]) == {"5": 5, "10": 10, "20": 20}
    assert sweeps.places(["0", "0.001", "0.2"]) == {"0": 0, "0.001": 1, "0.2": 2}, "far apart"
    assert sweeps.places(["a", "7"]) == {"a": 0, "7": 1}


def test_two_names_of_one_cell_are_made_once(config) -> None:
    twice = change(config, defenses="fake_defense,none", sweeps=("fake_attack.shift=0.5,0.50",))
    assert runner.run(twice) == 0
    assert CALLS.count("defense -0.25 0") == 1
    assert [r["status"] for r in csv.DictReader((config.folder / "table.csv").open())] == [
        "done"
    ] * 4


def test_values_far_apart_have_a_logarithmic_axis_with_a_place_for_0() -> None:
    assert sweeps.wide([0, 0.001, 0.01, 0.2])
    assert not sweeps.wide([5, 10, 20, 50, 100]), "20 times"
    assert not sweeps.wide([-1, 0.001, 1])
    assert not sweeps.wide([0, 0])
    row = {"asr": 0.5, "asr_lo": 0.4, "asr_hi": 0.6}
    line = [(v, row) for v in ("0.2", "0", "0.001")]
    way = reading([], "asr")
    figure = sweeps.plot("exposed.share", {"a": line}, [(way, heading([], way))])
    (axes,) = figure.axes
    assert axes.get_xscale() == "symlog"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.2", "0", "0.001"]
    where = [axes.transData.transform((v, 0))[0] for v in (0, 0.001, 0.2)]
    assert where[1] - where[0] > 0.1 * (where[2] - where[0]), "the small ones can be told apart"
