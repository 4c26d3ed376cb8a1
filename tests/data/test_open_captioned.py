"""Opening captioned pictures: folders, parquet files and streams; bad rows are left out."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from captioned_files import bomb, caption, opened, picture, write_folder, write_parquet

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.open_captioned import parse
from t2i_backdoor_bench.data.splits import SPLITS
from t2i_backdoor_bench.data.table import caption_text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_csv_metadata_and_another_caption_column(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "csv", 20)
    (folder / "metadata.jsonl").unlink()
    lines = [f'{i}.png,"{caption(i)}","<b>{i}</b>"' for i in range(20)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,says,html", *lines]))
    with pytest.raises(
        UserError,
        match=r"no caption column.*caption=COLUMN, or call it text: file_name, says, html",
    ):
        opened(folder)
    data, _ = opened(f"{folder},caption=says")
    assert sum(len(r) for r in data.rows.values()) == 20


def test_bad_rows_are_counted_and_named_and_not_fatal(tmp_path: Path) -> None:
    extra = [
        {"file_name": "gone.png", "text": "a picture that is not there"},
        {"file_name": "text.png", "text": "no picture"},
        {"file_name": "cut.jpg", "text": "a cut picture"},
        {"file_name": "bomb.png", "text": "thirty thousand pixels square"},
        {"file_name": "0.png", "text": "   "},
        {"file_name": "1.png", "text": None},
        {"file_name": "2.png", "text": "long " * 90},
    ]
    folder = write_folder(tmp_path / "pets", 20, extra)
    (folder / "text.png").write_text("not a picture")
    (folder / "bomb.png").write_bytes(bomb(30_000, 30_000))
    whole = io.BytesIO()
    picture(5, (400, 300)).save(whole, "jpeg")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    data, said = opened(folder, fits=lambda text: len(text.split()) < 70)
    assert sum(len(r) for r in data.rows.values()) == 20
    assert len(said) == 1
    line = said[0]
    assert "\n" not in line
    assert "7 of 27 rows are left out" in line
    for part in (
        "2 no caption (0.png, 1.png)",
        "1 missing picture (gone.png)",
        "1 picture too large (bomb.png)",
        "1 caption too long (2.png)",
    ):
        assert part in line, line
    assert "2 broken picture (text.png, cut.jpg)" in line
    for split in SPLITS:
        data.pairs(split, data.count("pairs", split), 0)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("stream", ["", ",stream", ",stream,rows=1000"])
def test_parquet_and_its_stream_are_the_same_data_as_the_folder(
    tmp_path: Path, typed: bool, stream: str
) -> None:
    folder = opened(write_folder(tmp_path / "pets", 40))[0]
    data, said = opened(f"{write_parquet(tmp_path / 'pets.parquet', 40, typed)}{stream}")
    assert not said
    assert data.name.split(" ")[1] == folder.name.split(" ")[1]
    a, b = (d.pairs("evaluation", 8, 3) for d in (folder, data))
    assert a[1] == b[1]
    assert np.array_equal(a[0], b[0])


@pytest.mark.parametrize("stream", ["", ",stream"])
def test_rows_bound_what_is_read(tmp_path: Path, stream: str) -> None:
    data, _ = opened(f"{write_parquet(tmp_path / 'pets.parquet', 40)},rows=12{stream}")
    assert {r.caption for rows in data.rows.values() for r in rows} == {
        caption(i) for i in range(12)
    }


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_parquet(tmp_path / "shards" / "a.parquet", 20)
    assert sum(len(r) for r in opened(tmp_path / "shards")[0].rows.values()) == 20


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    table = datasets.load_dataset(
        "parquet", data_files=str(write_parquet(tmp_path / "a.parquet", 20)), split="train"
    )
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table.select(range(5)), "validation": table}).save_to_disk(
        tmp_path / "two"
    )
    assert (
        opened(tmp_path / "one")[0].name.split()[1]
        == opened(f"{tmp_path / 'two'},split=validation")[0].name.split()[1]
    )
    assert sum(len(r) for r in opened(tmp_path / "two")[0].rows.values()) == 5
    with pytest.raises(UserError, match="cannot be read"):
        opened(f"{tmp_path / 'two'},split=test")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere/at/all", "no such file or folder"),
        ("/not/here.parquet", "no such file or folder"),
        ("owner/set-in-no-cache", "no local folder"),
        ("x,color=red", "is not an option; known: split"),
        ("x,rows=many", "rows must be a whole number"),
        ("x,rows=0", "rows must be"),
        ("x,split=", "is not an option"),
        (",stream", "has no name"),
    ],
)
def test_what_cannot_be_opened_is_one_line(spec: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        opened(spec)
    assert "\n" not in str(error.value)
    assert words in str(error.value)


def test_folders_without_captions_columns_or_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", 3)
    with pytest.raises(UserError, match="there is no column 'title'"):
        opened(f"{folder},caption=title")
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no captions: put a metadata\.csv"):
        opened(folder)
    with pytest.raises(UserError, match=r"validation"):
        opened(f"{write_parquet(tmp_path / 'x.parquet', 3)},split=train[validation")


def test_parsing() -> None:
    assert parse("a/b,split=validation,stream,rows=5") == (
        "a/b",
        {"split": "validation", "stream": "true", "rows": "5"},
    )
    assert caption_text(" two\n lines\t") == "two lines"
    assert caption_text("\u200b dog") == "\u200b dog"
    assert caption_text(["first", "second"]) == "first"
    assert caption_text([]) == caption_text(None) == ""
