"""Pictures of an earlier report: what is taken over, what is not, and what is drawn anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from report_pages import PROMPTS, SHOWN, read, run  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract.printable import lines
from t2i_backdoor_bench.report.html import kept, page
from t2i_backdoor_bench.store.folder import Store


@pytest.fixture
def published(run, tmp_path):
    """The run with its report, and without the samples and maps that it was drawn from."""
    store, records = run
    path = page.write(store, records)
    for name in ("samples", "maps"):
        shutil.rmtree(store.root / name)
    said: list[str] = []
    return Store(store.root, said.append), records, path, said


def images(text: str) -> list[tuple[str, str]]:
    found = [(k, v) for tag, k, v in read(text).attributes if tag == "img" and k in ("src", "alt")]
    return found


def test_pictures_and_maps_are_kept_with_their_texts(published) -> None:
    store, records, path, said = published
    before = path.read_text(encoding="utf-8")
    page.write(store, records)
    after = path.read_text(encoding="utf-8")
    assert len(images(before)) > 40
    assert images(after) == images(before)
    assert after == before, "verdicts, captions, tokens and shares too"
    assert "pictures kept from the earlier report" in said[-1]


def test_pictures_of_a_defense_that_is_not_in_the_run_go(published) -> None:
    store, records, path, _ = published
    before = kept.read(path)
    name = next(iter(before.pictures))
    fewer = [r for r in records if r.cell.defense == "none"]
    page.write(store, fewer)
    models = {tile.name for row in kept.read(path).pictures[name].rows for tile in row.tiles}
    assert models == {"clean model", "attacked"}


def test_what_has_samples_is_drawn_and_the_rest_is_kept(published) -> None:
    store, records, path, _ = published
    before = kept.read(path)
    name = next(iter(before.pictures))
    again = next(r for r in records if lines(f"{r.cell.attack}, seed 0") == name)
    new = np.zeros((3, 16, 16, 3), np.uint8)
    shown = {"shown": {"prompts": PROMPTS[:3]}}
    store.write_arrays(f"samples/{again.cell.key}", {"triggered": new}, shown)
    page.write(store, records)
    for old, now in zip(before.pictures[name].rows, kept.read(path).pictures[name].rows):
        tiles = {tile.name: tile.src for tile in old.tiles}
        assert [tile.name for tile in now.tiles] == list(tiles)
        changed = {tile.name for tile in now.tiles if tile.src != tiles[tile.name]}
        assert changed == {"attacked"}


@pytest.mark.parametrize(
    "address",
    ["https://example.org/x.png", "data:image/svg+xml;base64,AAAA", "data:image/png;base64,A B"],
)
def test_a_report_with_pictures_that_cannot_be_read_stays(published, address: str) -> None:
    store, records, path, said = published
    text = path.read_text(encoding="utf-8")
    start = text.index('src="data:image/png') + len('src="')
    odd = text[:start] + address + text[text.index('"', start) :]
    path.write_text(odd, encoding="utf-8")
    page.write(store, records)
    assert path.read_text(encoding="utf-8") == odd
    assert "stays as it is" in said[-1]
    assert "1 of them cannot be read" in said[-1]


def test_nothing_of_a_stranger_gets_in_unescaped(published) -> None:
    store, records, path, _ = published
    text = path.read_text(encoding="utf-8")
    text = text.replace("<figcaption>", "<figcaption><script>alert(3)</script>&lt;b&gt;", 1)
    text = text.replace('alt="clean model', 'onload="alert(4)" alt="&quot;><i>clean model', 1)
    path.write_text(text, encoding="utf-8")
    page.write(store, records)
    reader = read(path.read_text(encoding="utf-8"))
    assert reader.tags["script"] == 2
    assert not reader.tags["i"]
    assert not any(name.startswith("on") for _, name, _ in reader.attributes)
    assert SHOWN in "".join(reader.text)
