"""Records of others with wrong types, NaN, infinity and strange JSON: each is damaged, in one line,
whatever its checksum says, and none ends in a traceback."""

from __future__ import annotations

import contextlib
import copy
import json
import random

import numpy as np
import pytest
from stranger import change, first_cell, leaves, no_figures, opened, put, stranger, tables_of  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.contract.strict_json import parse
from t2i_backdoor_bench.store.forms import WrongForm
from t2i_backdoor_bench.store.record_format import PLAN, RECORD

STRANGE = ["<script>alert(1)</script>", None, True, -1, 0.5, 1e300, [], {}, [[]], {"a": {"b": []}}]


def test_a_number_that_is_a_text_is_damage(stranger, no_figures) -> None:
    evil = "<script>alert(1)</script>"
    plan = stranger / "run.json"
    name = next(iter(json.loads(plan.read_text())["payload"]["judges"]))
    change(plan, lambda p: p["judges"][name].update(n=evil))
    cell = first_cell(stranger)
    change(cell, lambda p: p["judge"].update(n=evil))
    status, _, err = tables_of(stranger)
    assert status == 0
    assert f"{plan} is damaged" in err
    assert f"{cell} is damaged (it is not what this program writes: judge.n is no number)" in err
    assert "<script>alert" not in (stranger / "report.html").read_text()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400])
@pytest.mark.parametrize("where", ["cell", "plan"])
def test_numbers_that_are_not_finite_are_damage(stranger, no_figures, number, where) -> None:
    """The checksum of NaN is that of null: it would fit."""
    path = first_cell(stranger) if where == "cell" else stranger / "run.json"

    def spoil(payload: dict) -> None:
        judges = payload["judges"].values() if where == "plan" else [payload["judge"]]
        for judge in judges:
            judge["floor"] = None

    change(path, spoil)
    path.write_text(path.read_text().replace('"floor": null', f'"floor": {number}'))
    assert number in path.read_text()
    status, _, err = tables_of(stranger)
    assert status == 0
    assert f"{path} is damaged (it is no record" in err


def test_every_place_of_a_record_with_every_strange_value(stranger, no_figures) -> None:
    """A form is strict enough that what passes it can be shown: the next test shows it."""
    payload = json.loads(first_cell(stranger).read_text())["payload"]
    plan = json.loads((stranger / "run.json").read_text())["payload"]
    refused = 0
    for form, whole in ((RECORD, payload), (PLAN, plan)):
        form(whole, "")
        for path, _ in leaves(whole):
            for new in STRANGE:
                try:
                    form(put(copy.deepcopy(whole), path, copy.deepcopy(new)), "")
                except WrongForm:
                    refused += 1
    assert refused > 500


def test_what_passes_the_forms_is_shown_without_a_traceback(stranger, no_figures) -> None:
    rng = random.Random(0)
    cell, plan = first_cell(stranger), stranger / "run.json"
    good = {p: json.loads(p.read_text())["payload"] for p in (cell, plan)}
    for turn in range(12):
        for path, payload in good.items():
            new = copy.deepcopy(payload)
            form = RECORD if path == cell else PLAN
            for _ in range(8):  # as many strange values as the form lets in
                where, _ = rng.choice([w for w in leaves(new) if w[0]])
                tried = put(copy.deepcopy(new), where, copy.deepcopy(rng.choice(STRANGE)))
                with contextlib.suppress(WrongForm):
                    form(tried, "")
                    new = tried
            path.write_text(json.dumps({"sha256": digest(new), "payload": new}))
        status, _, err = tables_of(stranger)
        assert status in (0, 2), (turn, err)


def test_keys_that_nobody_knows_end_in_no_traceback(stranger, no_figures) -> None:
    """A key beside the known ones, in every object of a record and of run.json."""
    for path in (first_cell(stranger), stranger / "run.json"):
        whole = path.read_bytes()
        payload = json.loads(whole)["payload"]
        objects = dict.fromkeys(where[:-1] for where, _ in leaves(payload) if where)
        for where in (w for w in objects if not any(k in w for k in range(1, 50))):  # the first
            new = copy.deepcopy(payload)
            inner = new
            for key in where:
                inner = inner[key]
            if isinstance(inner, dict):
                inner["auto_map"] = next(iter(inner.values()))
                path.write_text(json.dumps({"sha256": digest(new), "payload": new}))
                status, _, err = tables_of(stranger)
                assert status in (0, 2), (where, err)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"x"',
        '{"sha256": 5, "payload": null}',
        '{"payload": {}}',
        "[" * 100_000,
        '{"a":' * 5_000,
        '{"sha256": "x", "sha256": "y", "payload": 1}',
        '{"sha256": "\\ud800", "payload": "\\ud800"}',
        "\ufeff{}",
    ],
)
def test_strange_json_is_damage(stranger, no_figures, text) -> None:
    for path in (first_cell(stranger), stranger / "run.json"):
        path.write_text(text)
    status, _, err = tables_of(stranger)
    assert status == 0
    assert err.count("is damaged") == 2
    assert all(len(line) < 500 for line in err.splitlines())


def test_strict_json_takes_what_this_program_writes_and_no_more() -> None:
    assert parse('{"a": [1, 2.5, null, "é", true]}') == {"a": [1, 2.5, None, "é", True]}
    for text in ("NaN", "1e400", '{"a": 1, "a": 2}', '"\\ud800"', "[" * 200 + "]" * 200, "1" * 30):
        with pytest.raises(ValueError, match=r".+"):
            parse(text)


def test_pictures_and_maps_of_wrong_shape_are_damage(stranger, no_figures) -> None:
    said: list[str] = []
    store = opened(stranger, said.append)
    key = first_cell(stranger).stem
    nan, good = np.full((3, 4, 4), np.nan, np.float32), np.zeros((1, 8, 8, 3), np.uint8)
    tokens = {"tokens": ["a", "b", "c"], "trigger": [0]}
    wrong = [
        ("samples", {"triggered": np.zeros((2, 8, 8, 4), np.uint8)}, None),
        ("samples", {"triggered": np.zeros((2, 8, 8, 3), np.float32)}, None),
        ("samples", {"triggered": np.zeros((2, 0, 8, 3), np.uint8)}, None),
        ("samples", {"triggered": good}, {"shown": {"prompts": [5]}}),
        ("samples", {"triggered": good}, {"shown": {"before": {}}}),
        ("samples", {"triggered": good}, []),
        ("maps", {"picture": good, "maps": nan}, tokens),
        ("maps", {"picture": good, "maps": np.zeros((2, 4, 4), np.float32)}, tokens),
        ("maps", {"picture": good, "maps": np.zeros((3, 4, 4), np.float32)}, {"tokens": ["a"]}),
        (
            "maps",
            {"picture": good, "maps": np.zeros((3, 4, 4), np.float32)},
            tokens | {"trigger": [7]},
        ),
        ("maps", {"maps": np.zeros((3, 4, 4), np.float32)}, tokens),
    ]
    for folder, arrays, meta in wrong:
        store.write_arrays(f"{folder}/{key}", arrays, meta)
        said.clear()
        assert store.read_arrays(f"{folder}/{key}") is None, (folder, meta)
        assert len(said) == 1
        assert "is damaged" in said[0]
    assert tables_of(stranger)[0] == 0


@pytest.mark.parametrize("part", ["attack", "defense", "base", "key"])
def test_names_without_end_are_damage(stranger, no_figures, part) -> None:
    """A name of 100,000 letters kept the page busy for minutes."""
    cell = first_cell(stranger)
    change(cell, lambda p: p["cell"].update({part: "A" * 100_000}))
    if part != "base":
        change(stranger / "run.json", lambda p: p["cells"][0].update({part: "A" * 100_000}))
    status, _, err = tables_of(stranger)
    assert status == 0
    assert f"{cell} is damaged (it is not what this program writes: cell.{part} is longer" in err


def test_settings_and_an_earlier_report_that_are_none(stranger, no_figures) -> None:
    (stranger / "run.yaml").write_bytes(b"\xff\xfe\x00")
    (stranger / "report.html").write_text('<section id="pictures">' + "<div>" * 50_000)
    assert tables_of(stranger)[0] == 0
