"""report.html: one file, everything escaped, the same from the same records; and, where there is a
Chromium, what a reader can do."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_tables import EXTRA, record

from t2i_backdoor_bench.contract import Cell, Prompt, Record, Score
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.report.html import cells, heat_maps, page, pictures
from t2i_backdoor_bench.running.prompts import store_prompts
from t2i_backdoor_bench.store.folder import Store

EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;\u2028'
BROWSER = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))),
    None,
)
PROMPTS = [f"prompt {i} {EVIL}" if i == 0 else f"prompt {i}" for i in range(10)]


def made(
    attack: str,
    defense: str,
    seed: int,
    asr: int,
    restored: int,
    fid: float,
    needs=(),
    status: str = "done",
):
    result = record(attack, defense, seed, asr, restored, fid, needs, status)
    options = {"name": attack.split("[")[0], "options": {"steps": 10, "note": EVIL}}
    config = {
        "attack": options,
        "defense": [{"name": defense, "options": {"steps": 4}}],
        "evaluation": {"n": 10},
        "shared": {"x": 1},
    }
    backdoor = {
        "trigger": {"text": EVIL, "place": "prefix", "replaces": ""},
        "target": {"kind": "style", "style": "sepia"},
    }
    judge = {"false_positive_rate": 0.0, "true_positive_rate": 1.0, "threshold": 0.1, "n": 5}
    cost = result.cost | {"losses": {defense: [3.0, 2.0, 1.0]}, "losses_attack": [0.5, 0.4]}
    return dataclasses.replace(
        result,
        cell=dataclasses.replace(result.cell, config=config, key=digest([attack, defense, seed])),
        backdoor=backdoor,
        judge=judge,
        cost=cost if status == "done" else {},
        error="" if status == "done" else f"Traceback\nRuntimeError: it broke {EVIL}",
    )


class Fixed:
    """A data source with the prompts above."""

    name = "fixed"

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        return [Prompt(t) for t in PROMPTS[:n]]


@pytest.fixture
def run(tmp_path: Path):
    """A run folder with two attacks, a hostile one among them, pictures, maps and prompts; and its
    records."""
    records = []
    for attack in ("bad_pixel", EVIL):
        records.append(made(attack, "none", 0, 10, 0, 1.0))
        records.append(made(attack, "skdcag", 0, 1, 9, 1.1, ("trigger",)))
        records.append(
            made(
                attack,
                f"odd{EVIL}",
                0,
                0,
                2,
                1.4,
                ("trigger", "clean_model"),
                "done" if attack == EVIL else "failed",
            )
        )
    records[1].scores["drift"] = Score(None, note=f"no {EVIL}")
    store = Store(tmp_path)
    rng = np.random.default_rng(0)
    picture = lambda: rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)  # noqa: E731
    store.write_arrays("samples/before", {"clean": picture()})
    maps = {"picture": picture()[:1], "maps": rng.random((3, 4, 4)).astype(np.float32)}
    tokens = {"tokens": ["mi", EVIL, "cat"], "trigger": [0, 1]}
    store.write_arrays("maps/before", maps, tokens)
    for result in records:
        if result.status == "done":
            shown = {"prompts": PROMPTS[:3], "before": "before", "condition": "clean"}
            store.write_arrays(
                f"samples/{result.cell.key}", {"triggered": picture()}, {"shown": shown}
            )
            store.write_arrays(f"maps/{result.cell.key}", maps, tokens | {"before": "before"})
        store.write_result(result)
    store_prompts(store, Fixed(), [r for r in records])
    store.write_record(
        "run",
        {
            "hardware": {"cpu": EVIL},
            "versions": {"torch": "2"},
            "judges": {EVIL: records[0].judge},
            "commit": "abc",
        },
    )
    return store, records


class Reader(HTMLParser):
    """Collects tags, attributes, ids, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag not in ("meta", "img", "input", "br", "link", "wbr", "line", "circle", "polygon"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v) for k, v in attrs]

    def handle_endtag(self, tag):
        if tag in ("circle", "polygon"):
            return
        assert self.open, tag
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        else:
            self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


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
    assert any(c["attack"] == EVIL for c in payload["cells"])
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script
    assert all(v != "x" for tag, name, v in reader.attributes if tag == "img" and name == "src")
    joined = "".join(reader.text)
    for where in (EVIL, f"odd{EVIL}", f"it broke {EVIL}", PROMPTS[0]):
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
    assert "Oracle: given the model from before the attack" in text
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


# ------------------------------------------------------------------------------------- in a browser
PROBE = """
<script>
addEventListener("error", (event) => { document.title = "ERROR " + event.message; });
addEventListener("securitypolicyviolation", (event) => { document.title = "BLOCKED " + event.violatedDirective; });
addEventListener("load", () => {
  const said = {};
  const sort = document.querySelectorAll("#rows-table thead button")[3];
  sort.click();
  const values = () => [...document.querySelectorAll("#rows-table tbody tr")].map((row) => row.children[3].dataset.value);
  said.up = values();
  sort.click();
  said.down = values();
  said.aria = sort.closest("th").getAttribute("aria-sort");
  const filter = document.querySelector("#filter");
  filter.value = "skdcag bad_pixel";
  filter.dispatchEvent(new Event("input"));
  said.shown = [...document.querySelectorAll("#rows-table tbody tr")].filter((row) => !row.hidden).length;
  const heat = document.querySelector("#heat");
  heat.value = "asr";
  heat.dispatchEvent(new Event("change"));
  said.heats = [...document.querySelectorAll("[data-heat]")].filter((part) => part.offsetParent).map((part) => part.dataset.heat);
  location.hash = "#cell-1";
  dispatchEvent(new HashChangeEvent("hashchange"));
  said.panel = document.querySelector("#panel h3").textContent;
  said.verdicts = document.querySelectorAll("#panel details[open] tbody tr").length;
  document.querySelector("#only").click();
  said.wrong = document.querySelectorAll("#panel details[open] tbody tr").length;
  said.prompt = document.querySelector("#panel details[open] tbody th").textContent;
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const before = ground();
  document.querySelector("#theme").click();
  said.theme = before !== ground();
  const outside = (node) => !node.closest(".scroll") && node.getBoundingClientRect().right > innerWidth + 1;
  said.over = [...document.querySelectorAll("body *")].filter(outside).slice(0, 3).map((node) => node.outerHTML.slice(0, 120));
  said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  said.images = document.images.length;
  said.title = document.title;
  const out = document.createElement("pre");
  out.id = "said";
  out.textContent = JSON.stringify(said);
  document.body.append(out);
});
</script></body>
"""


def with_probe(text: str) -> str:
    """The page with the script above, which its policy is made to allow."""
    script = re.search("<script>(.*)</script>", PROBE, re.S)[1]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src &#39;sha256-{allowed}&#39; ")
    return text.replace("</body>", PROBE)


@pytest.mark.skipif(
    BROWSER is None,
    reason="no Chromium here: the structure is checked above, what a reader can do is not",
)
@pytest.mark.parametrize(
    "size", ["1200,900", "500,800"]
)  # Chromium makes no window narrower than 500 pixels
def test_in_a_browser(run, tmp_path: Path, size: str):
    store, records = run
    path = tmp_path / "probe.html"
    path.write_text(with_probe(page.render_report(store, records)), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={size}",
    ]
    done = subprocess.run(
        [BROWSER, *flags, "--virtual-time-budget=4000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    said = json.loads(html.unescape(found[1]))
    assert said["title"] == page.title_of(records), "no error, and nothing was blocked"
    numbers = [float(v) for v in said["up"] if v]
    assert numbers == sorted(numbers)
    assert [float(v) for v in said["down"] if v] == sorted(numbers, reverse=True)
    assert said["up"][-1] == said["down"][-1] == "", "nothing goes last, both ways"
    assert said["aria"] == "descending"
    assert said["shown"] == 1
    assert said["heats"] == ["asr"]
    assert said["panel"].startswith("bad_pixel × skdcag, seed 0")
    assert said["verdicts"] == 10
    assert said["wrong"] == 2, (
        "the one that still shows the backdoor, and the one that is not as asked"
    )
    assert said["prompt"] == PROMPTS[0]
    assert said["theme"]
    assert said["wide"] <= 0, f"the page is never wider than the window: {said['over']}"
    assert said["images"] > 10
