"""Captioned images through `datasets`: folders, parquet and streams; disjoint splits; bad rows are
named and left out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.caption_tables import caption_text, picture_bytes
from t2i_backdoor_bench.data.captioned import CaptionedImages, into_splits
from t2i_backdoor_bench.data.captioned import Row as CaptionRow
from t2i_backdoor_bench.data.image_files import decode, square
from t2i_backdoor_bench.data.open_captioned import open_data, parse
from t2i_backdoor_bench.data.splits import SPLITS, WorldData, required_word

WORDS = ("dog", "cat", "horse", "boat", "house")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(i: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def png(i: int) -> bytes:
    out = io.BytesIO()
    picture(i).save(out, "png")
    return out.getvalue()


def caption(i: int) -> str:
    return f"a photo of a {WORDS[i % len(WORDS)]} number {i}"


def write_folder(folder: Path, n: int, extra: list[dict] | None = None) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        picture(i).save(folder / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": caption(i)} for i in range(n)] + (extra or [])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def opened(
    spec: object, fits: Callable[[str], bool] = lambda text: True, side: int = 32
) -> tuple[CaptionedImages, list[str]]:
    said: list[str] = []
    return open_data(str(spec), side, fits, said.append), said


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes whose header claims width x height pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    data, said = opened(write_folder(tmp_path / "pets", 200))
    assert not said
    rows = [r for rows in data.rows.values() for r in rows]
    assert {r.caption for r in rows} == {caption(i) for i in range(200)}
    for split, share in SPLITS.items():
        assert (
            data.count("prompts", split)
            == data.count("pairs", split)
            == pytest.approx(200 * share, abs=25)
        )
    images, captions = data.pairs("train", 10, 0)
    assert images.shape == (10, 32, 32, 3)
    for image, text in zip(images, captions):
        number = int(text.split()[-1])
        assert np.array_equal(image, square(picture(number), 32))


def test_csv_metadata_and_another_caption_column(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "csv", 20)
    (folder / "metadata.jsonl").unlink()
    lines = [f'{i}.png,"{caption(i)}","<b>{i}</b>"' for i in range(20)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,says,html", *lines]))
    with pytest.raises(UserError, match=r"no caption column.*image, says, html"):
        opened(folder)
    data, _ = opened(f"{folder},caption=says")
    assert sum(len(r) for r in data.rows.values()) == 20


def test_splits_share_no_caption_and_no_picture(tmp_path: Path) -> None:
    """Five captions a picture, as in COCO, and captions in another case: what belongs together
    stays together."""
    rows = [
        CaptionRow(f"caption {i} of picture {i // 5}", f"digest {i // 5}", bytes)
        for i in range(500)
    ]
    rows += [
        CaptionRow("CAPTION 0 OF PICTURE 0", "another digest", bytes),
        CaptionRow("one more", "another digest", bytes),
    ]
    splits = into_splits(rows)
    assert sum(map(len, splits.values())) == len(rows)
    where = {}
    for split, found in splits.items():
        assert found
        for row in found:
            assert where.setdefault(row.digest, split) == split
            assert where.setdefault(row.caption.casefold(), split) == split
    assert where["one more"] == where["caption 4 of picture 0"]
    mixed = into_splits(rows[::-1])
    assert {s: {r.caption for r in v} for s, v in splits.items()} == {
        s: {r.caption for r in v} for s, v in mixed.items()
    }


def test_splits_do_not_move_when_rows_are_added(tmp_path: Path) -> None:
    few, many = (opened(write_folder(tmp_path / str(n), n))[0] for n in (60, 120))
    for split in SPLITS:
        assert {r.caption for r in few.rows[split]} <= {r.caption for r in many.rows[split]}


def test_identity_is_the_content_in_any_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", 20)
    first = opened(folder)[0]
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join(lines[::-1]))
    again = opened(folder)[0]
    assert again.name == first.name
    assert [p.text for p in again.prompts("evaluation", 4, 0)] == [
        p.text for p in first.prompts("evaluation", 4, 0)
    ]
    picture(999).save(folder / "3.png")
    assert opened(folder)[0].name != first.name
    picture(3).save(folder / "3.png")
    assert opened(folder)[0].name == first.name
    (folder / "metadata.jsonl").write_text("\n".join(lines).replace("number 3", "number three"))
    assert opened(folder)[0].name != first.name


def test_prompts_are_different_reproducible_and_follow_the_seed(tmp_path: Path) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 200))
    texts = [p.text for p in data.prompts("evaluation", 40, 0)]
    assert len(set(texts)) == 40
    assert texts == [p.text for p in data.prompts("evaluation", 40, 0)]
    assert texts != [p.text for p in data.prompts("evaluation", 40, 1)]
    assert not set(texts) & {
        p.text for p in data.prompts("defender", data.count("prompts", "defender"), 0)
    }


def test_a_prompt_names_other_captions_of_its_split(tmp_path: Path) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 300))
    own = {r.caption for r in data.rows["evaluation"]}
    for prompt in data.prompts("evaluation", 20, 0):
        others = prompt.wrong["caption"]
        assert len(others) == len(set(others)) == 99
        assert set(others) <= own - {prompt.text}
    again = {p.text: p.wrong for p in data.prompts("evaluation", 30, 5)}
    for prompt in data.prompts("evaluation", 20, 0):
        assert again.get(prompt.text, prompt.wrong) == prompt.wrong


def test_contains_takes_whole_words(tmp_path: Path) -> None:
    extra = [
        {"file_name": f"{i}.png", "text": f"a {w} on a hill, {i}"}
        for i, w in enumerate(["catfish", "cats", "bobcat", "cat"] * 10)
    ]
    data, _ = opened(write_folder(tmp_path / "pets", 100, extra))
    many = data.count("prompts", "train", "cat")
    assert 0 < many < data.count("prompts", "train")
    assert all(
        "cat" in p.text.replace(",", "").split() for p in data.prompts("train", many, 0, "cat")
    )
    assert all("cat" in c.replace(",", "").split() for c in data.pairs("train", 3, 0, "cat")[1])


def test_a_letter_is_looked_for_anywhere_and_only_where_some_captions_lack_it(
    tmp_path: Path,
) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 200))
    assert all("g" in p.text for p in data.prompts("evaluation", 5, 0, "g"))
    assert data.count("prompts", "evaluation", "o") == data.count("prompts", "evaluation")
    assert required_word(data, "", "o") == required_word(data, "", "") == "", (
        "every caption has it: any will do"
    )
    assert required_word(data, "", "g") == "g", "dogs alone"
    assert required_word(data, "cat", "cat") == required_word(data, "cat", "") == "cat"
    assert required_word(WorldData(), "", "o") == ""


def test_too_few_is_one_line(tmp_path: Path) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 20))
    for call in (data.prompts, data.pairs):
        with pytest.raises(
            UserError, match=r"train split of pets \(\w+\) has \d+ .* and 50 are asked for"
        ) as error:
            call("train", 50, 0)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="with the word 'zebra'"):
        data.prompts("train", 1, 0, "zebra")
    with pytest.raises(ValueError, match="unknown split"):
        data.prompts("test", 1, 0)


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


def test_bombs_are_refused_by_their_header() -> None:
    assert Image.MAX_IMAGE_PIXELS < 100_000_000
    for size in ((30_000, 30_000), (10_000, 10_000)):  # PIL only warns of the second
        with pytest.raises(Image.DecompressionBombError):
            decode(bomb(*size))


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 4 4
%%EndComments
(made) (w) file closefile showpage
%%EOF
"""


@pytest.mark.parametrize("name", ["drawing.eps", "drawing.png"])
def test_what_another_program_would_open_is_no_picture(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript is a language with files: whatever its name, it is handed to nobody."""
    from PIL import EpsImagePlugin

    called = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *args, **more: called.append(args) or picture(0).im
    )
    folder = write_folder(tmp_path / "pets", 5, [{"file_name": name, "text": "a drawing"}])
    (folder / name).write_bytes(EPS)
    assert Image.open(io.BytesIO((folder / name).read_bytes())).format == "EPS", (
        "PIL alone takes it"
    )
    data, said = opened(folder)
    assert f"1 broken picture ({name})" in said[0]
    assert sum(len(r) for r in data.rows.values()) == 5
    assert not called


def test_archives_in_a_folder_are_not_unpacked(tmp_path: Path) -> None:
    """A zip bomb: 200 MB of zeros in 200 kB, among the pictures."""
    import zipfile

    folder = write_folder(tmp_path / "pets", 5)
    (folder / "more").mkdir()
    with (
        zipfile.ZipFile(folder / "more" / "bomb.ZIP", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("a.png", "w") as inner,
    ):
        for _ in range(200):
            inner.write(bytes(2**20))
    assert (folder / "more" / "bomb.ZIP").stat().st_size < 2**20
    with pytest.raises(UserError, match=r"contains bomb\.ZIP: archives are not unpacked"):
        opened(folder)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 2**21


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"no picture", "cannot be read"), (bomb(30_000, 30_000), "too many pixels"), (EPS, "cannot")],
    ids=["text", "bomb", "eps"],
)
def test_a_patch_picture_is_read_with_the_same_care(
    tmp_path: Path, data: bytes, words: str
) -> None:
    from t2i_backdoor_bench.targets.patches import make_patch

    (tmp_path / "patch.png").write_bytes(data)
    with pytest.raises(UserError, match=words) as error:
        make_patch(str(tmp_path / "patch.png"), 8)
    assert "\n" not in str(error.value)
    (tmp_path / "patch.png").write_bytes(png(0))
    assert make_patch(str(tmp_path / "patch.png"), 8).shape == (8, 8, 3)


def test_pictures_become_upright_rgb_squares() -> None:
    gray = Image.new("L", (60, 30), 200)
    assert square(decode(saved(gray)), 16).shape == (16, 16, 3)
    alpha = Image.new("RGBA", (30, 60), (10, 20, 30, 0))
    assert square(decode(saved(alpha)), 16)[0, 0].tolist() == [10, 20, 30]
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255  # the middle
    assert square(Image.fromarray(wide), 40).min() == 255
    turned = Image.fromarray(
        np.concatenate([np.full((20, 40, 3), 255, np.uint8), np.zeros((20, 40, 3), np.uint8)])
    )
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    out = io.BytesIO()
    turned.save(out, "png", exif=exif)
    assert np.asarray(decode(out.getvalue()))[0, 0].tolist() == [0, 0, 0]


def saved(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()


# ------------------------------------------------------------------------------ parquet and streams
def write_parquet(path: Path, n: int, typed: bool = True) -> Path:
    rows = {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(n)],
        "caption": [[caption(i), "another"] for i in range(n)],
    }
    table = datasets.Dataset.from_dict(rows)
    (table.cast_column("image", datasets.Image()) if typed else table).to_parquet(path)
    return path


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


def test_a_table_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png(1))
    assert picture_bytes({"bytes": None, "path": str(tmp_path / "set" / "a.png")}, tmp_path / "set")
    assert not picture_bytes(
        {"bytes": None, "path": str(tmp_path / "secret.png")}, tmp_path / "set"
    )
    assert not picture_bytes({"bytes": None, "path": str(tmp_path / "secret.png")}, None)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    assert not picture_bytes(
        {"bytes": None, "path": str(tmp_path / "set" / "link.png")}, tmp_path / "set"
    )
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "caption": ["x"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "links.parquet")
    with pytest.raises(UserError, match="none of its 1 rows"):
        opened(tmp_path / "links.parquet")


def test_a_metadata_path_that_leaves_the_folder_is_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", 3, [{"file_name": "../secret.png", "text": "x"}])
    with pytest.raises(UserError, match=r"cannot be read.*\.\./secret\.png") as error:
        opened(folder)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------- refusals
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
    assert caption_text([]) == caption_text(None) == caption_text(3) == ""
