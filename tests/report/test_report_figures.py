"""The report shows what the figures show: grey attacks, whole numbers, keys, bands and verdicts."""

import dataclasses
import re

import numpy as np
from report_pages import EVIL, read
from report_records import record, records, share  # noqa: F401 - a fixture

from t2i_backdoor_bench.report.figures.style import BAD_TO_GOOD
from t2i_backdoor_bench.report.findings import findings
from t2i_backdoor_bench.report.html import charts, heat_maps, page, pictures, protocol
from t2i_backdoor_bench.store.folder import Store


def with_scores(found, **scores):
    return dataclasses.replace(found, scores=found.scores | scores)


def test_heat_maps_are_whole_numbers_and_grey_where_an_attack_did_not_take_hold(records):
    weak = [
        with_scores(r, asr=share(1))
        if (r.cell.attack, r.cell.defense) == ("bad_style", "none")
        else r
        for r in records
    ]
    view = heat_maps.view(weak)
    assert [(a["name"], a["grey"]) for a in view["attacks"]] == [
        ("bad_pixel", False),
        ("bad_style", True),
    ]
    lead = next(m for m in view["maps"] if m["metric"] == "restoration_accuracy")
    row = next(r for r in lead["rows"] if r["defense"] == "skdcag")
    assert [cell["text"] for cell in row["cells"]] == ["95", "50"]
    assert [cell["shade"] for cell in row["cells"]] == ["shade95", "grey"]
    assert (lead["key"]["low"], lead["key"]["high"]) == ("0", "100")
    assert lead["key"]["shades"][0] == "shade0"
    assert lead["key"]["shades"][-1] == "shade100"
    assert "bad_style (ASR 10.0 %" in view["note"]
    lower = [m for m in view["maps"] if m["name"].endswith("↓")]
    assert all(m["key"]["shades"][0] == "shade100" for m in lower), "the least is best"
    assert heat_maps.view(records)["note"] == ""


def test_the_colours_are_those_of_the_figures():
    for place, color in zip((0, 0.5, 1), BAD_TO_GOOD, strict=True):
        found = re.search(r"rgb\((\d+) (\d+) (\d+)\)", heat_maps.shade(place)).groups()
        assert "#" + "".join(f"{int(v):02x}" for v in found) == color


def test_the_first_finding_is_the_headline(records, tmp_path):
    text = page.render_report(Store(tmp_path), records)
    first = findings(records)[0]
    assert f'<p class="headline">{first}</p>'.replace("'", "&#39;") in text
    assert text.count(first) == 1
    reader = read(text)
    assert ("p", "class", "headline") in reader.attributes


def test_training_is_one_panel_a_method(records):
    found = [
        dataclasses.replace(r, cost={"losses": {"x": [3.0, 2.0 + i / 10]}})
        for i, r in enumerate(records)
    ]
    view = charts.training(found)
    names = list(dict.fromkeys(r.cell.defense for r in records))
    assert [panel["name"] for panel in view["panels"]] == names
    assert view["panels"][0]["of"] == "defense, 2 attacks, 2 seeds"
    kinds = [shape.tag for shape in view["panels"][0]["chart"].shapes]
    assert (kinds.count("polyline"), kinds.count("polygon")) == (1, 2)


def test_a_number_in_the_trade_off_is_explained_by_the_key():
    found = []
    for attack in ("a", "b"):
        found.append(record(attack, "none", 0, 10, 0, 1.0))
        for i, needs in enumerate((("trigger",), ("trigger",), ("trigger", "clean_model"))):
            found.append(record(attack, f"d{i}", 0, 1, 8 + i % 2, 1.0, needs))
        found.append(record(attack, "idle", 0, 10, 0, 1.0))
    view = charts.tradeoff(found)
    key = {number: name for group in view["groups"] for number, name in group["points"]}
    assert sorted(key.values()) == ["d0", "d1", "d2"]
    assert len({g["mark"].shapes[0].attributes["class"] for g in view["groups"]}) == 2
    for panel in view["panels"]:
        labels = {s.text for s in panel.shapes if s.attributes.get("class") == "name"}
        assert labels == {str(number) for number in key}
    assert view["note"].endswith(": idle.")


def test_refused_pictures_say_so_and_are_not_black(tmp_path):
    store, found = Store(tmp_path), record("a", "screen", 0, 0, 9, 1.0)
    black = np.zeros((2, 8, 8, 3), np.uint8)
    arrays = {"triggered": black, "refused/triggered": np.array([True, False])}
    store.write_arrays(f"samples/{found.cell.key}", arrays, {"shown": {"prompts": ["p", EVIL]}})
    (group,) = pictures.picture_groups(store, [found], {})
    first, second = (row.tiles[0] for row in group.rows)
    assert (first.kind, first.verdict) == ("refused", "⊘ refused")
    assert (second.kind, second.verdict) == ("good", "✓ restored")
    assert first.src != second.src
    key = pictures.picture_view([group])["key"]
    assert [v.words for v in key] == ["restored", "refused"]
    assert pictures.picture_view([]) is None


def test_the_protocol_tells_how_each_attack_was_made(records):
    assert protocol.attack_facts(records) is None
    facts = {"trigger_kind": "phrase", "trigger": EVIL, "poison_share": 0.1, "settings_by": "us"}
    told = [dataclasses.replace(r, attack=facts) for r in records[:6]]
    view = protocol.attack_facts([*told, *records[6:]])
    assert view["rows"] == [("bad_pixel", ["phrase", EVIL, "10 %", "–", "us"])]
    assert len(view["heads"]) == 5
