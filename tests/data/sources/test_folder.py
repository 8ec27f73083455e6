"""Image folders."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ldm_scale.data.images import open_image
from ldm_scale.data.pack import pack
from ldm_scale.data.sources.folder import read_folder
from ldm_scale.data.sources.items import Item
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_folder, make_image
from tests.data.packing import config, packed, rejected


def read(folder: Path) -> dict[str, Item]:
    return {item.key: item for item in read_folder(Location.of(folder)).items}


def add(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(folder / name)


def test_captions_come_from_text_beside_and_labels_from_class_folders(tmp_path: Path) -> None:
    items = read(make_folder(tmp_path, 4))
    assert {key: (item.captions, item.label) for key, item in items.items()} == {
        "dog/000": (("picture 0",), "dog"),
        "cat/001": (("picture 1",), "cat"),
        "dog/002": (("picture 2",), "dog"),
        "cat/003": (("picture 3",), "cat"),
    }
    assert items["cat/001"].location == Location.of(tmp_path / "cat/001.png")


def test_metadata_wins_over_text_beside_and_folders(tmp_path: Path) -> None:
    make_folder(tmp_path, 4)
    add(tmp_path, "top.jpg")
    rows = ["file_name,caption,label", 'cat/001.png,"commas, quoted",lion', "dog/002.png,,", "top.jpg,Top,other"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    items = read(tmp_path)
    assert (items["cat/001"].captions, items["cat/001"].label) == (("commas, quoted",), "lion")
    assert (items["dog/002"].captions, items["dog/002"].label) == (("picture 2",), "dog")
    assert (items["top"].captions, items["top"].label) == (("Top",), "other")
    assert len(items) == 5


def test_metadata_may_leave_out_captions_and_labels(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,7\n")
    items = read(tmp_path)
    assert [(item.captions, item.label) for item in items.values()] == [((), "7"), ((), None)]


def test_a_file_that_metadata_names_and_the_folder_lacks_is_named(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,x\ngone.png,y\n")
    with pytest.raises(UsageError, match=r"metadata\.csv names 'gone\.png'"):
        read(tmp_path)


def test_metadata_without_file_names_says_which_column_is_wanted(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("name,caption\na.png,x\n")
    with pytest.raises(UsageError, match="needs a column file_name"):
        read(tmp_path)


def test_metadata_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_bytes("file_name,caption\r\na.png,é\r\n".encode("utf-8-sig"))
    assert read(tmp_path)["a"].captions == ("é",)


def test_bytes_and_no_suffix_say_what_is_an_image(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "b.JPG", "deep/er/c.webp", "d.jpeg", "e.gif", "f.TIF", "g.bmp")
    make_image(9).save(tmp_path / "h.jfif", "JPEG")
    make_image(10).save(tmp_path / "i.dat", "PNG")
    make_image(11).save(tmp_path / "j", "WEBP")
    make_image(12).save(tmp_path / "k.txt", "PNG")
    for name in ("notes.md", "deep/list.json", "BMW.csv"):
        (tmp_path / name).write_text("BMW and other cars, a text that begins as a BMP does")
    (tmp_path / "i.txt").write_text("beside")
    listing = read_folder(Location.of(tmp_path))
    items = {item.key: item for item in listing.items}
    assert sorted(items) == ["a", "b", "d", "deep/er/c", "e", "f", "g", "h", "i", "j", "k"]
    assert (items["deep/er/c"].label, items["i"].captions) == ("deep", ("beside",))
    assert listing.skipped == {"no image by its bytes": (3, "BMW.csv")}
    assert (listing.seen, listing.read) == (15, 1)


@pytest.mark.parametrize(("kind", "words"), [(np.int32, "32-bit"), (np.float32, "floating-point")])
def test_pixels_of_no_known_white_are_rejected(tmp_path: Path, kind: type, words: str) -> None:
    """They would become white."""
    add(tmp_path / "source", "a.png", "b.png")
    Image.fromarray((np.arange(64).reshape(8, 8) * 10_000).astype(kind)).save(tmp_path / "source/c.tif")
    pack(config(tmp_path / "source", tmp_path / "out", max_reject_fraction=0.5))
    reason = f"pixels of {words} numbers, whose black and white nothing tells"
    assert rejected(tmp_path / "out") == {"c": reason}


@pytest.mark.parametrize("start", [b"\0\0\0\x18ftypheic", b"\0\0\0\x1cftypavif", b"\xff\n", b"\0\0\0\x0cjP  \r\n"])
def test_images_of_formats_that_are_not_read_are_rejected_whatever_their_suffix(tmp_path: Path, start: bytes) -> None:
    add(tmp_path / "source", "a.png", "b.png")
    for name in ("c.heic", "d.jpg"):
        (tmp_path / "source" / name).write_bytes(start + bytes(100))
    pack(config(tmp_path / "source", tmp_path / "out", max_reject_fraction=0.5))
    reason = "cannot be decoded: no JPEG, PNG, WebP, TIFF, GIF or BMP"
    assert rejected(tmp_path / "out") == {"c": reason, "d": reason}


MODES = {
    "TIFF": ("RGB", "L", "P", "1", "RGBA", "CMYK", "I;16"),
    "GIF": ("RGB", "L", "P", "1", "RGBA"),
    "BMP": ("RGB", "L", "P", "1", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_formats_that_shards_do_not_hold_become_pngs_of_the_same_pixels(tmp_path: Path, kind: str, mode: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    image = (
        Image.fromarray(rng.integers(0, 2**16, (8, 8), np.uint16)) if mode == "I;16" else make_image(0).convert(mode)
    )
    image.save(source / f"a.{kind.lower()}")
    make_image(1).save(source / "b.png")
    pack(config(source, tmp_path / "out"))
    sample = next(side["a"] for side in packed(tmp_path / "out").values() if "a" in side)
    with Image.open(source / f"a.{kind.lower()}") as stored:
        levels = np.asarray(stored)
        grey = (levels / 257).round().astype(np.uint8)
        expected = np.stack([grey] * 3, axis=2) if mode == "I;16" else np.asarray(stored.convert("RGB"))
    found = open_image(sample.image, 10**6)
    assert (sample.suffix, found.format) == ("png", "PNG")
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), expected)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_metadata(folder: Path, kind: str, rows: list[dict[str, object]]) -> None:
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif kind == "jsonl":
        write(folder / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    else:
        lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
        write(folder / "metadata.csv", "\n".join([",".join(rows[0]), *lines]))


@pytest.mark.parametrize("column", ["caption", "text", "captions"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_of_every_kind_and_folder_give_all_captions_in_order(tmp_path: Path, kind: str, column: str) -> None:
    add(tmp_path, "a.png", "deep/b.tif", "deep/er/c.png")
    write(tmp_path / "a.txt", "of less weight")
    upper = [{"file_name": "a.png", column: f"caption, {number}", "label": 3} for number in (2, 1, 5, 3, 4)]
    write_metadata(tmp_path, kind, [*upper, {"file_name": "deep/b.tif", column: "upper", "label": 9}])
    lower = [("b.tif", "lower"), ("er/../b.tif", "again"), ("./er/c.png", "deepest")]
    write_metadata(tmp_path / "deep", kind, [{"file_name": name, column: text, "label": 4} for name, text in lower])
    items = read(tmp_path)
    assert {key: item.captions for key, item in items.items()} == {
        "a": tuple(f"caption, {number}" for number in (2, 1, 5, 3, 4)),
        "deep/b": ("lower", "again"),
        "deep/er/c": ("deepest",),
    }
    assert {key: int(item.label or 0) for key, item in items.items()} == {"a": 3, "deep/b": 4, "deep/er/c": 4}


def test_a_list_of_captions_is_kept(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    write_metadata(tmp_path, "jsonl", [{"file_name": "a.png", "text": ["one", "two"]}])
    assert read(tmp_path)["a"].captions == ("one", "two")


def test_columns_of_a_spreadsheet_may_have_spaces_around_their_names(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", "file_name, text ,label\na.png, kept as it is,\n")
    assert (read(tmp_path)["a"].captions, read(tmp_path)["a"].label) == ((" kept as it is",), None)


def test_a_cell_of_nan_says_nothing(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "b.png")
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.png", "text": NaN, "caption": NaN, "label": NaN}')
    assert (read(tmp_path)["a"].captions, read(tmp_path)["a"].label) == ((), None)


def test_a_file_that_metadata_name_is_an_image_whatever_its_suffix(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.raw")
    write(tmp_path / "b.raw", "no image")
    write_metadata(tmp_path, "csv", [{"file_name": name, "text": name} for name in ("a.raw", "b.raw")])
    assert {key: item.captions for key, item in read(tmp_path).items()} == {"a": ("a.raw",), "b": ("b.raw",)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "file_name,text\na.png,one, two\n", "metadata.csv line 2: more fields"),
        ("metadata.csv", 'file_name,text\na.png,"one\nb.png,two\n', "metadata.csv line 3: unexpected end of data"),
        ("metadata.csv", "file_name,label\na.png,1\na.png,2\n", "metadata.csv line 3: a second label of 'a.png', '2'"),
        ("metadata.jsonl", '{"file_name": "a.png"}\n\n{"file_name"}\n', "metadata.jsonl line 3: "),
        ("metadata.jsonl", "[1]", "metadata.jsonl line 1: no JSON object"),
        ("metadata.jsonl", '{"file_name": 3}', "metadata.jsonl line 1: needs a column file_name"),
        ("metadata.csv", "file_name,text,text\na.png,one,two\n", "metadata.csv has two columns 'text'"),
        (
            "metadata.csv",
            "file_name,prompt\na.png,one\n",
            "metadata.csv has the columns prompt; captions are read from",
        ),
        ("metadata.jsonl", '{"file_name": "a.png", "prompt": "one"}', "metadata.jsonl has the columns prompt"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": {"en": "one"}}', "metadata.jsonl line 1: text must hold"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": [["one"]]}', "metadata.jsonl line 1: text must hold"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": [1, 2]}', "metadata.jsonl line 1: label must hold"),
        ("metadata.parquet", "none", "metadata.parquet is no whole Parquet file"),
        ("deep/metadata.jsonl", '{"file_name": "a.png"}', "metadata.jsonl names 'deep/a.png'"),
    ],
)
def test_metadata_that_cannot_be_read_are_refused_by_their_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    add(tmp_path, "a.png")
    write(tmp_path / name, content)
    with pytest.raises(UsageError, match=message):
        read(tmp_path)


def test_two_kinds_of_metadata_in_one_folder_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    for kind in ("csv", "jsonl"):
        write_metadata(tmp_path, kind, [{"file_name": "a.png", "text": kind}])
    with pytest.raises(UsageError, match=r"has metadata\.csv and metadata\.jsonl"):
        read(tmp_path)


def test_a_caption_may_be_longer_than_csvs_own_limit(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    write_metadata(tmp_path, "csv", [{"file_name": "a.png", "text": "x" * 131_073}])
    assert read(tmp_path)["a"].captions == ("x" * 131_073,)


def test_sides_of_a_split_are_no_classes(tmp_path: Path) -> None:
    add(tmp_path, "train/cat/1.png", "test/dog/1.png", "train/2.png")
    assert {key: item.label for key, item in read(tmp_path).items()} == {
        "train/cat/1": "cat",
        "test/dog/1": "dog",
        "train/2": None,
    }


@pytest.mark.parametrize(
    "folders",
    [
        {"Train/cat": "cat", "TEST/dog": "dog"},
        {"training_set/cat": "cat", "test_set/dog": "dog"},
        {"train2017/cat": "cat", "val2017/dog": "dog"},
        {"data/train/cat": "cat", "data/train/dog": "dog", "data/test/cat": "cat"},
        {"all/images/cat": "cat", "all/images/dog": "dog"},
        {"train/cat": "cat", "val/dog": "dog", "docs": None},
        {"seg_train/seg_train/sea": "sea", "seg_test/seg_test/ice": "ice", "seg_pred/seg_pred": None},
        {"training_set": None, "test_set": None},
        {"images": None},
        {"images/all": None},
        {"cat": "cat", "": None},
        {"7": "7"},
        {"n01440764/images": "n01440764"},
        {"train": "train", "bus": "bus"},
        {"bullet train": "bullet train", "test tube": "test tube", "cat": "cat"},
        {"bullet train": "bullet train", "steam train": "steam train"},
        {"cat/indoor": "cat", "dog": "dog", "": None},
    ],
)
def test_classes_are_folders_that_are_neither_sides_nor_around_all(
    tmp_path: Path, folders: dict[str, str | None]
) -> None:
    names = {str(Path(folder) / f"{number}.png"): label for number, (folder, label) in enumerate(folders.items())}
    add(tmp_path, *names)
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name", *names]))
    assert {f"{key}.png": item.label for key, item in read(tmp_path).items()} == names


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_class_numbers_that_pandas_made_floats_stay_numbers(tmp_path: Path, kind: str) -> None:
    """pandas #28335: beside one that is missing, 10 is 10.0; by their names, 10.0 would come before 2.0."""
    labels = [0.0, 2.0, 10.0, float("nan"), 1.0]
    add(tmp_path / "source", *(f"{n}.png" for n in range(5)))
    rows = [{"file_name": f"{n}.png", "label": label} for n, label in enumerate(labels)]
    text = "\n".join(json.dumps(row) for row in rows)
    if kind == "csv":
        text = "\n".join(["file_name,label", *(f"{n}.png,{'' if n == 3 else label}" for n, label in enumerate(labels))])
    (tmp_path / f"source/metadata.{kind}").write_text(text)
    pack(config(tmp_path / "source", tmp_path / "out"))
    sides = packed(tmp_path / "out")
    found = {key: sample.label for side in sides.values() for key, sample in side.items()}
    assert found == {"0": 0, "1": 2, "2": 10, "3": None, "4": 1}


def test_parts_of_a_download_are_no_classes(tmp_path: Path) -> None:
    """img2dataset #279: its files in folders of 10,000, with Parquet and statistics beside each."""
    names = [f"{part:05d}/{part:05d}{number:04d}" for part in range(2) for number in range(2)]
    for name in names:
        add(tmp_path, f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text(name)
        (tmp_path / f"{name}.json").write_text('{"status": "success"}')
    for part in range(2):
        (tmp_path / f"{part:05d}_stats.json").write_text('{"count": 2}')
        (tmp_path / f"{part:05d}.parquet").write_bytes(b"PAR1")
    assert {key: (item.captions, item.label) for key, item in read(tmp_path).items()} == {
        name: ((name,), None) for name in names
    }


@pytest.mark.parametrize(
    ("members", "heldout", "labels"),
    [
        # The folder that names the side is no class, whether members are named or all others.
        (("suspect/",), ("other/",), {"suspect/1": None, "suspect/2": None, "other/3": None}),
        ((), ("other",), {"suspect/1": None, "suspect/2": None, "other/3": None}),
        # A class lies on both sides, below.
        (
            ("suspect/",),
            ("other/",),
            {"suspect/cat/1": "cat", "suspect/dog/2": "dog", "other/cat/3": "cat", "other/dog/4": "dog"},
        ),
        # Folders that are on one side alone tell it as well, at every level.
        (("a/",), ("b/",), {"a/cat/1": None, "a/cow/2": None, "b/dog/3": None}),
        ((), ("dog/",), {"cat/1": None, "cow/2": None, "dog/3": None}),
        # Of both sides.
        (("cat/a", "dog/a"), ("cat/b", "dog/b"), {"cat/a1": "cat", "cat/b2": "cat", "dog/a3": "dog", "dog/b4": "dog"}),
    ],
)
def test_a_folder_that_tells_the_side_is_no_class(
    tmp_path: Path, members: tuple[str, ...], heldout: tuple[str, ...], labels: dict[str, str | None]
) -> None:
    add(tmp_path, *(f"{key}.png" for key in labels))
    listing = read_folder(Location.of(tmp_path), members, heldout)
    assert {item.key: item.label for item in listing.items} == labels


def test_packed_sides_have_no_classes_of_their_own(tmp_path: Path) -> None:
    add(tmp_path / "source", *(f"{side}/{number}.png" for side in ("suspect", "other") for number in range(3)))
    manifest = pack(config(tmp_path / "source", tmp_path / "out", members=("suspect/",), heldout=("other/",)))
    samples = [sample for side in packed(tmp_path / "out").values() for sample in side.values()]
    assert (manifest.classes, {sample.label for sample in samples}) == ((), {None})


def test_a_list_in_composed_form_names_files_in_decomposed_form(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFD", "élan.png"), unicodedata.normalize("NFC", "Zürich.png")]
    add(tmp_path, *names)
    rows = [("élan.png", "NFC"), ("Zürich.png", "NFD")]
    write_metadata(
        tmp_path, "csv", [{"file_name": unicodedata.normalize(form, name), "text": form} for name, form in rows]
    )
    found = {key: item.captions for key, item in read(tmp_path).items()}
    assert found == {unicodedata.normalize("NFC", key): (form,) for key, form in (("élan", "NFC"), ("Zürich", "NFD"))}


def test_a_text_in_composed_form_is_beside_an_image_in_decomposed_form(tmp_path: Path) -> None:
    add(tmp_path, unicodedata.normalize("NFD", "élan.png"))
    write(tmp_path / unicodedata.normalize("NFC", "élan.txt"), "beside")
    assert read(tmp_path)[unicodedata.normalize("NFC", "élan")].captions == ("beside",)


@pytest.mark.parametrize("suffix", [".TXT", ".Txt"])
def test_a_text_beside_may_have_a_suffix_in_capitals(tmp_path: Path, suffix: str) -> None:
    add(tmp_path, "a.png")
    write(tmp_path / f"a{suffix}", "beside")
    assert read(tmp_path)["a"].captions == ("beside",)


def test_keys_have_no_dots(tmp_path: Path) -> None:
    add(tmp_path, "v1.2/cat.small.png")
    assert list(read(tmp_path)) == ["v1_2/cat_small"]


def test_an_empty_folder_has_no_items(tmp_path: Path) -> None:
    assert read(tmp_path) == {}
