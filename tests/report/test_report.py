"""report.html: one file, everything escaped, the same from the same records."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re

import numpy as np
from PIL import Image
from report_pages import PROMPTS, SHOWN, made, read, run  # noqa: F401 - a fixture
from report_records import EXTRA, record

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.contract.printable import lines
from t2i_backdoor_bench.report.html import cells, heat_maps, page, pictures
from t2i_backdoor_bench.store.folder import Store


def test_one_file_that_asks_for_nothing(run):
    text = page.render_report(*run)
    reader = read(text)
    policy = next(v for tag, k, v in reader.attributes if k == "content" and "src" in v)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy, "what a page holds runs only where it is this package's own"
    assert not any(k == "style" for _, k, _ in reader.attributes), "which the policy would block"
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "action", "data", "srcset", "poster"):
            assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
        assert not name.startswith("on"), (tag, name)
    assert "url(" not in text
    assert "@import" not in text
    assert not reader.tags["link"]
    assert not reader.tags["iframe"]


def test_what_is_hostile_stays_text(run):
    text = page.render_report(*run)
    reader = read(text)
    assert reader.tags["script"] == 2, "the data and the page's own"
    (kind, data), (_, script) = reader.scripts
    assert kind["type"] == "application/json"
    assert "<" not in data
    payload = json.loads(data)
    assert any(c["attack"] == SHOWN for c in payload["cells"])
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script
    assert all(v != "x" for tag, name, v in reader.attributes if tag == "img" and name == "src")
    joined = "".join(reader.text)
    for where in (SHOWN, f"odd{SHOWN}", f"it broke {SHOWN}", lines(PROMPTS[0])):
        assert where in joined, "it is shown, as it is"


def test_every_section_is_there_and_linked(run):
    text = page.render_report(*run)
    reader = read(text)
    ids = [v for _, k, v in reader.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    sections = [
        "leaderboard",
        "matrix",
        "trade-off",
        "pictures",
        "attention",
        "training",
        "rows",
        "cells",
        "failures",
        "protocol",
        "cite",
    ]
    for name in sections:
        assert name in ids
        assert f'href="#{name}"' in text
    labels = [v for _, k, v in reader.attributes if k == "for"]
    assert set(labels) <= set(ids)
    assert all(
        any(k == "alt" and v for t, k, v in reader.attributes if t == "img") for _ in range(1)
    )
    images = sum(t == "img" for t, k, _ in reader.attributes if k == "src")
    assert images == sum(t == "img" and bool(v) for t, k, v in reader.attributes if k == "alt")
    assert "@article{aravindan2025sealing" in text
    assert "Oracle: given the trigger and the clean model. Given the model from before" in text
    for _, name, value in reader.attributes:
        if name == "tabindex":
            assert value == "0", "no order but the page's own"


def test_ids_do_not_collide_with_table_rows(run):
    assert page.render_report(*run).count('id="rows"') == 1


def test_the_same_records_give_the_same_bytes(run):
    store, records = run
    assert page.render_report(store, records) == page.render_report(Store(store.root), records)
    path = page.write(store, records)
    assert path.read_text(encoding="utf-8") == page.render_report(store, records)


def test_records_alone_are_enough(tmp_path):
    """Published results have neither images nor losses nor prompts."""
    records = [
        record("bad", d, 0, 1, 8, 1.0, ("trigger",) if d != "none" else ())
        for d in ("none", "skdcag")
    ]
    text = page.render_report(Store(tmp_path), records)
    reader = read(text)
    ids = {v for _, k, v in reader.attributes if k == "id"}
    assert not ids & {"pictures", "attention", "training", "failures"}
    assert "prompt 1" not in "".join(reader.text)


def test_all_cells_failed(tmp_path):
    records = [record("bad", d, 0, 1, 8, 1.0, status="failed") for d in ("none", "skdcag")]
    read(page.render_report(Store(tmp_path), records))
    missing = [Record(Cell("shapes", "a", "b", 0, "k"), "missing", **EXTRA)]
    assert "has not run yet" in page.render_report(Store(tmp_path), missing)


def test_verdicts_are_one_a_prompt(run):
    _, records = run
    assert cells.bits(records[1], "asr") == "1000000000"
    assert cells.bits(records[1], "clip_score") == "", "not a verdict"
    short = dataclasses.replace(records[1], scores={"asr": Score(0.5, each=[True, False])})
    assert cells.bits(short, "asr") == "", "refused prompts were left out: the places are not known"


def test_pictures_keep_their_pixels_and_maps_their_scale():
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    uri = pictures.data_uri(small)
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert np.array_equal(again, small)
    large = Image.open(
        io.BytesIO(
            base64.b64decode(pictures.data_uri(np.zeros((600, 300, 3), np.uint8)).partition(",")[2])
        )
    )
    assert (large.format, large.size) == ("WEBP", (128, 256))
    colors = pictures.magma(np.array([[0.0, 1.0, 2.0, 5.0]]), 2.0)
    assert tuple(colors[0, 0]) == pictures.MAGMA[0]
    assert tuple(colors[0, 1]) == pictures.MAGMA[3]
    assert tuple(colors[0, 2]) == tuple(colors[0, 3]) == pictures.MAGMA[-1]


def contrast(style: str) -> float:
    """Contrast ratio (WCAG 2) of the text and the ground of a shade."""
    ground = [int(v) for v in re.search(r"rgb\((\d+) (\d+) (\d+)\)", style).groups()]
    ink = [255, 255, 255] if style.endswith("#fff") else [0, 0, 0]

    def light(color):
        linear = [
            c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
            for c in color
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((light(ground), light(ink)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_numbers_read_on_every_shade():
    assert min(contrast(heat_maps.shade(p)) for p in np.linspace(0, 1, 101)) >= 4.5
