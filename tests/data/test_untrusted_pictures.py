"""Pictures and tables of unknown origin: no bombs, no other programs, no other files."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from captioned_files import bomb, opened, picture, png, saved, write_folder
from PIL import Image

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.image_files import decode, square
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.table import picture_bytes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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
    assert f"1 in a format that is not read, PostScript ({name})" in said[0]
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


def test_a_table_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png(1))
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    inside = Place(tmp_path / "set")
    for path in (str(tmp_path / "set" / "a.png"), "a.png"):
        assert picture_bytes({"bytes": None, "path": path}, inside)
        assert not picture_bytes({"bytes": None, "path": path}, Place())
    outside = [str(tmp_path / "secret.png"), "../secret.png", str(tmp_path / "set" / "link.png")]
    for path in (*outside, "\0", "", 5, None, "a" * 5000):
        assert not picture_bytes({"bytes": None, "path": path}, inside)
        assert not picture_bytes({"bytes": None, "path": path}, Place())
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "caption": ["x"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "links.parquet")
    with pytest.raises(UserError, match="none of its 1 rows"):
        opened(tmp_path / "links.parquet")


@pytest.mark.parametrize("name", ["../secret.png", "{0}/secret.png", "a/../../secret.png", "pets"])
def test_a_metadata_path_that_leaves_the_folder_counts_as_missing(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png(7))
    lost = {"file_name": name.format(tmp_path), "text": "a secret"}
    data, said = opened(write_folder(tmp_path / "pets", 3, [lost]))
    assert "1 of 4 rows are left out: 1 missing picture" in said[0]
    assert "a secret" not in {r.caption for rows in data.rows.values() for r in rows}
