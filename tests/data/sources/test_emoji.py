"""The emoji package."""

import json
from pathlib import Path
from typing import Any

import pytest

from ldm_scale.data.sources.emoji import read_emoji
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_image


def emoji(unified: str, name: str | None = "A NAME", image: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "unified": unified,
        "image": unified.lower() + ".png",
        "short_name": "short_name",
        "category": "People",
        "subcategory": "person-role",
        "has_img_apple": True,
        "has_img_google": image,
    }


def write_emoji(folder: Path, *entries: dict[str, Any]) -> Path:
    """The layout of the npm package emoji-datasource-google."""
    (folder / "img/google/64").mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(entries):
        if entry["has_img_google"]:
            make_image(number).save(folder / "img/google/64" / entry["image"])
    (folder / "emoji.json").write_text(json.dumps(entries))
    (folder / "package.json").write_text("{}")
    return folder


def variants(folder: Path, *unified: str) -> list[str | None]:
    write_emoji(folder, *map(emoji, unified))
    return [item.variant for item in read_emoji(Location.of(folder)).items]


def test_the_emoji_package_gives_names_and_sub_categories(tmp_path: Path) -> None:
    write_emoji(tmp_path, emoji("0023-FE0F-20E3", "HASH KEY"), emoji("1F9D1", None), emoji("1F600", image=False))
    first, second = read_emoji(Location.of(tmp_path)).items
    assert (first.key, first.captions, first.label) == ("0023-fe0f-20e3", ("hash key",), "person-role")
    assert first.location == Location.of(tmp_path / "img/google/64/0023-fe0f-20e3.png")
    assert second.captions == ("short name",)


@pytest.mark.parametrize(
    "same",
    [
        ("1F468-200D-1F373", "1F469-200D-1F373", "1F9D1-200D-1F373"),  # cooks
        ("1F44D", "1F44D-1F3FB", "1F44D-1F3FF"),  # skin tones
        ("1F937", "1F937-200D-2640-FE0F", "1F937-200D-2642-FE0F"),  # gender signs
        ("1F468-200D-1F9B0", "1F469-200D-1F9B3", "1F469"),  # hair
        ("1F468-200D-1F469-200D-1F466", "1F469-200D-1F468-200D-1F467"),  # families
    ],
)
def test_emoji_of_one_picture_share_a_variant(tmp_path: Path, same: tuple[str, ...]) -> None:
    assert len(set(variants(tmp_path, *same))) == 1


def test_other_emoji_are_no_variants_of_each_other(tmp_path: Path) -> None:
    different = ("1F468", "1F468-200D-1F373", "1F468-200D-1F468", "1F44D", "1F44E")
    assert len(set(variants(tmp_path, *different))) == 5


@pytest.mark.parametrize("content", [None, "<html>", "[]]", '{"a": 1}', '[{"name": "x"}]'])
def test_a_folder_that_is_not_the_emoji_package_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "emoji.json").write_text(content)
    with pytest.raises(UsageError, match=r"emoji\.json"):
        read_emoji(Location.of(tmp_path))
