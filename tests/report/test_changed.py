"""Figures of a run folder beside those that its records give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from report_records import records  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.changed import changed_figures
from t2i_backdoor_bench.report.figures import plots
from t2i_backdoor_bench.store.folder import Store


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def repaint(path: Path) -> None:
    """A whole picture that shows something else in one corner."""
    with Image.open(path) as image:
        image.load()
    image.putpixel((0, 0), (1, 2, 3, 255))
    image.save(path)


def save_again(path: Path) -> None:
    """The same picture in other bytes."""
    with Image.open(path) as image:
        image.load()
    image.save(path, compress_level=0)


def test_a_figure_that_the_records_do_not_give_is_named(
    records: Sequence[Record], tmp_path: Path
) -> None:
    few = [r for r in records if r.cell.attack == "bad_pixel"]
    folder = tmp_path / "plots"
    plots.write_figures(Store(tmp_path), few)
    save_again(folder / "matrix.png")
    repaint(folder / "rates.png")
    halve(folder / "tradeoff.png")
    halve(folder / "rates.pdf")
    (folder / "mine.png").write_bytes(b"mine")
    found = changed_figures(Store(tmp_path, read_only=True), few)
    named = ["mine.png", "rates.pdf", "rates.png", "tradeoff.png"]
    assert [text.partition(" is not")[0] for text in found] == [f"plots/{n}" for n in named]
