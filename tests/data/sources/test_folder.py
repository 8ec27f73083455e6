"""Image folders."""

from pathlib import Path

import pytest

from ldm_scale.data.sources.folder import read_folder
from ldm_scale.data.sources.items import Item
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_folder, make_image


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


def test_only_images_are_items_whatever_the_case_of_the_suffix(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "b.JPG", "deep/er/c.webp", "d.jpeg")
    for name in ("notes.md", "e.gif", "deep/list.json", "png"):
        (tmp_path / name).write_text("no image")
    items = read(tmp_path)
    assert sorted(items) == ["a", "b", "d", "deep/er/c"]
    assert items["deep/er/c"].label == "deep"


def test_keys_have_no_dots(tmp_path: Path) -> None:
    add(tmp_path, "v1.2/cat.small.png")
    assert list(read(tmp_path)) == ["v1_2/cat_small"]


def test_an_empty_folder_has_no_items(tmp_path: Path) -> None:
    assert read(tmp_path) == {}
