"""Packing a source: copies, splits without near-duplicates on both sides, and refusals that touch nothing."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ldm_scale.config.data import PackConfig
from ldm_scale.data.counts import describe
from ldm_scale.data.duplicates import Look
from ldm_scale.data.images import open_image
from ldm_scale.data.likeness import correlation
from ldm_scale.data.manifest import Manifest, read_manifest
from ldm_scale.data.pack import cut, pack
from ldm_scale.data.split import Split
from ldm_scale.data.work import RunTasks
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.storage import Location, sub_locations
from tests.conftest import make_folder, make_image
from tests.data.packing import config, keys, packed, rejected, tree


def write_split(path: Path, members: list[str], heldout: list[str]) -> str:
    path.write_text(json.dumps({"members": members, "heldout": heldout}))
    return str(path)


def test_images_are_copied_byte_for_byte_with_captions_and_labels(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 9)
    make_image(50).save(source / "cat/photo.jpg", quality=40)
    manifest = pack(config(source, tmp_path / "out"))
    sides = packed(tmp_path / "out")
    samples = sides["members"] | sides["heldout"]
    assert (len(sides["members"]), len(sides["heldout"]), len(samples)) == (5, 5, 10)
    for key, sample in samples.items():
        path = source / f"{key}.{sample.suffix}"
        assert sample.image == path.read_bytes()
        assert manifest.classes[sample.label or 0] == key.split("/")[0]
    assert samples["dog/002"].caption == "picture 2"
    assert samples["cat/photo"].caption is None
    assert manifest.classes == ("cat", "dog")


def test_the_manifest_on_disk_is_the_one_returned(tmp_path: Path) -> None:
    manifest = pack(config(make_folder(tmp_path / "source", 10), tmp_path / "out", shard_samples=2))
    assert read_manifest(Location.of(tmp_path / "out")) == manifest
    assert [shard.samples for shard in manifest.shards] == [2, 2, 1, 2, 2, 1]
    assert manifest.split_sha256 == Split(*map(tuple, keys(tmp_path / "out"))).sha256


def test_the_same_seed_gives_the_same_shards_and_another_seed_another_split(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 12)
    first, again, other = (pack(config(source, tmp_path / name, seed=s)) for name, s in (("a", 1), ("b", 1), ("c", 2)))
    assert first == again
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert first.split_sha256 != other.split_sha256


def test_a_size_gives_pngs_of_that_size_on_white(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_image(0, 40).save(source / "a.jpg")
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(source / "b.png")
    pack(config(source, tmp_path / "out", size=8))
    sides = packed(tmp_path / "out")
    samples = sides["members"] | sides["heldout"]
    assert {sample.suffix for sample in samples.values()} == {"png"}
    images = {key: open_image(sample.image, 100) for key, sample in samples.items()}
    assert {image.size for image in images.values()} == {(8, 8)}
    assert {image.format for image in images.values()} == {"PNG"}
    assert np.asarray(images["b"]).min() == 255


def test_a_split_file_decides_and_leaves_the_rest_out(tmp_path: Path) -> None:
    split = write_split(tmp_path / "split.json", ["dog/000", "dog/002"], ["cat/001"])
    pack(config(make_folder(tmp_path / "source", 6), tmp_path / "out", split=split, near_duplicates=0.94))
    assert keys(tmp_path / "out") == (["dog/000", "dog/002"], ["cat/001"])


def test_a_split_file_naming_absent_keys_is_refused(tmp_path: Path) -> None:
    split = write_split(tmp_path / "split.json", ["dog/000", "dog/999"], ["cat/001"])
    with pytest.raises(UsageError, match=r"1 keys absent from .*, the first is 'dog/999'"):
        pack(config(make_folder(tmp_path / "source", 4), tmp_path / "out", split=split))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json", "members/members-000000.tar"])
def test_an_out_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match="out is not empty"):
        pack(config(make_folder(tmp_path / "source", 4), tmp_path / "out"))
    assert tree(tmp_path / "out") == {name: b"mine"}


def test_an_out_path_that_is_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="out"):
        pack(config(make_folder(tmp_path / "source", 4), tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_out_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert pack(config(make_folder(tmp_path / "source", 4), tmp_path / "out")).samples == 4


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures, each beside two recompressed copies."""
    source = tmp_path_factory.mktemp("doubled")
    for number in range(10):
        image = make_image(number, 32)
        image.save(source / f"{number}-original.png")
        image.save(source / f"{number}-again.jpg", quality=90)
        image.resize((30, 30)).save(source / f"{number}-smaller.png")
    return source


def test_one_of_each_group_of_near_duplicates_is_kept(tmp_path: Path, doubled: Path) -> None:
    for seed in range(3):
        manifest = pack(config(doubled, tmp_path / str(seed), near_duplicates=0.94, seed=seed))
        members, heldout = keys(tmp_path / str(seed))
        assert sorted(key.split("-")[0] for key in members + heldout) == [str(number) for number in range(10)]
        assert "20 removed" in manifest.split


def test_no_picture_is_near_one_on_the_other_side(tmp_path: Path, doubled: Path) -> None:
    pack(config(doubled, tmp_path / "out", near_duplicates=0.94))
    greys = [
        np.stack([Look.at(open_image(sample.image, 10**6).convert("RGB")).grey for sample in side.values()])
        for side in packed(tmp_path / "out").values()
    ]
    members, heldout = (greys[0].repeat(len(greys[1]), axis=0), np.tile(greys[1], (len(greys[0]), 1, 1)))
    assert len(members) == 25
    assert max(*correlation(members, heldout), *correlation(members[:, :, ::-1], heldout)) < 0.94


def test_what_was_removed_can_be_read_and_looked_at(tmp_path: Path, doubled: Path) -> None:
    shutil.copytree(doubled, tmp_path / "source")
    copy = tmp_path / "source/<b>&.png"
    make_image(0, 32).save(copy)
    pack(config(tmp_path / "source", tmp_path / "out", near_duplicates=0.94))
    removed = json.loads((tmp_path / "out/duplicates.json").read_text())
    kept = {key for side in keys(tmp_path / "out") for key in side}
    every = {path.stem for path in (tmp_path / "source").iterdir()}
    assert sorted(one["key"] for one in removed) == sorted(every - kept)
    assert len(removed) == 21
    for one in removed:
        assert one["kept"] in kept
        assert 0.94 <= one["correlation"] <= 1
    page = (tmp_path / "out/duplicates.html").read_text()
    assert page.count("<figure>") == 21
    assert page.count("data:image/png;base64,") == 42
    assert "21 images were removed" in page
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_the_page_shows_the_most_doubtful_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doubled: Path
) -> None:
    monkeypatch.setattr("ldm_scale.data.removed.SHOWN", 5)
    pack(config(doubled, tmp_path / "out", near_duplicates=0.94))
    removed = json.loads((tmp_path / "out/duplicates.json").read_text())
    weakest = sorted(removed, key=lambda one: one["correlation"])[:5]
    page = (tmp_path / "out/duplicates.html").read_text()
    assert "20 images were removed" in page
    assert [one["key"] in page for one in removed] == [one in weakest for one in removed]


def test_nothing_removed_leaves_no_page(tmp_path: Path) -> None:
    pack(config(make_folder(tmp_path / "source", 4), tmp_path / "out", near_duplicates=0.94))
    assert not {path.name for path in (tmp_path / "out").iterdir()} & {"duplicates.json", "duplicates.html"}


@pytest.mark.parametrize("value", [0.05, 0.499, 1.01, -0.1])
def test_what_is_no_correlation_of_copies_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="near_duplicates"):
        config(tmp_path, tmp_path, near_duplicates=value)


def test_near_duplicates_can_be_kept(tmp_path: Path, doubled: Path) -> None:
    assert pack(config(doubled, tmp_path / "out")).samples == 30


def test_emoji_variants_are_near_duplicates(tmp_path: Path) -> None:
    codes = ["1f468-200d-1f373", "1f469-200d-1f373", "1f600", "1f601"]
    (tmp_path / "source/img/google/64").mkdir(parents=True)
    entries = []
    for number, code in enumerate(codes):
        make_image(number, 64).save(tmp_path / f"source/img/google/64/{code}.png")
        entry = {"name": code, "unified": code.upper(), "image": f"{code}.png", "short_name": code}
        entries.append(entry | {"subcategory": "x", "has_img_google": True})
    (tmp_path / "source/emoji.json").write_text(json.dumps(entries))
    pack(config(tmp_path / "source", tmp_path / "out", dataset="emoji", near_duplicates=0.94))
    members, heldout = keys(tmp_path / "out")
    assert sorted(members + heldout) == [codes[0], codes[2], codes[3]]


def test_an_emoji_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    entry = {"name": "x", "unified": "1F600", "image": "1f600.png", "short_name": "x", "subcategory": "x"}
    (source / "emoji.json").write_text(json.dumps([entry | {"has_img_google": True}]))
    with pytest.raises(UsageError, match=r"1f600\.png"):
        pack(config(source, tmp_path / "out", dataset="emoji", near_duplicates=0.94))


def test_at_most_the_asked_number_is_drawn_after_near_duplicates(tmp_path: Path, doubled: Path) -> None:
    for name in ("out", "again"):
        pack(config(doubled, tmp_path / name, near_duplicates=0.94, max_samples=7))
    members, heldout = keys(tmp_path / "out")
    assert (len(members), len(heldout)) == (3, 4)
    assert len({key.split("-")[0] for key in members + heldout}) == 7
    assert keys(tmp_path / "again") == (members, heldout)
    assert pack(config(doubled, tmp_path / "all", near_duplicates=0.94, max_samples=99)).samples == 10


DECODING = [{"near_duplicates": 0.94}, {"size": 8}, {"near_duplicates": 0.94, "size": 8}]


@pytest.mark.parametrize("changes", DECODING)
def test_bad_images_are_rejected_with_a_reason_and_counted(tmp_path: Path, changes: dict[str, object]) -> None:
    source = make_folder(tmp_path / "source", 6)
    bad = {"empty": b"", "foreign": b"<html>", "broken": b"\x89PNG\r\n\x1a\nbroken"}
    for name, data in bad.items():
        (source / f"{name}.png").write_bytes(data)
    make_image(9, 40).save(source / "large.png")
    manifest = pack(config(source, tmp_path / "out", max_pixels=1000, max_reject_fraction=0.4, **changes))
    members, heldout = keys(tmp_path / "out")
    assert {key.split("/")[0] for key in members + heldout} == {"cat", "dog"}
    assert manifest.samples == len(members + heldout) == 6
    assert manifest.split.endswith("; 4 rejected, see rejects.json")
    assert manifest.split_sha256 == Split(tuple(members), tuple(heldout)).sha256
    reasons = rejected(tmp_path / "out")
    assert set(reasons) == {*bad, "large"}
    assert (reasons["empty"], reasons["large"]) == ("no image", "more than max_pixels = 1000 (40 x 40)")
    assert reasons["foreign"] == "cannot be decoded: no JPEG, PNG, WebP, TIFF, GIF or BMP"


@pytest.mark.parametrize("changes", DECODING)
def test_too_many_bad_images_fail_the_pack_and_the_first_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    source = make_folder(tmp_path / "source", 6)
    for name in ("a", "b"):
        (source / f"{name}.png").write_bytes(b"<html>")
    message = r"2 of 8 images are rejected, more than max_reject_fraction = 0\.2; the first is 'a': cannot be decoded"
    with pytest.raises(RunError, match=message):
        pack(config(source, tmp_path / "out", max_reject_fraction=0.2, **changes))
    assert not (tmp_path / "out/manifest.json").exists()
    # The same command that allows more goes on.
    assert pack(config(source, tmp_path / "out", max_reject_fraction=0.25, **changes)).samples == 6


def test_a_split_files_bad_images_are_rejected_too(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 6)
    (source / "dog/002.png").write_bytes(b"<html>")
    split = write_split(tmp_path / "split.json", ["dog/000", "dog/002"], ["cat/001"])
    pack(config(source, tmp_path / "out", split=split, size=8, max_reject_fraction=0.5))
    assert keys(tmp_path / "out") == (["dog/000"], ["cat/001"])
    assert set(rejected(tmp_path / "out")) == {"dog/002"}


def test_an_image_without_bytes_is_rejected_even_where_files_are_copied(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 6)
    (source / "dog/002.png").write_bytes(b"")
    assert pack(config(source, tmp_path / "out", max_reject_fraction=0.2)).samples == 5
    assert rejected(tmp_path / "out") == {"dog/002": "no image"}


def test_broken_images_are_copied_where_nothing_needs_to_look_at_them(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 3)
    (source / "broken.png").write_bytes((source / "dog/000.png").read_bytes()[:60])
    assert pack(config(source, tmp_path / "out")).samples == 4


def test_files_that_do_not_begin_as_images_are_rejected_even_where_files_are_copied(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 3)
    (source / "page.png").write_bytes(b"<html>")
    assert pack(config(source, tmp_path / "out", max_reject_fraction=0.3)).samples == 3
    assert set(rejected(tmp_path / "out")) == {"page"}


def test_images_of_one_key_are_refused(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 3)
    make_image(9).save(source / "cat/001.jpg")
    with pytest.raises(
        UsageError, match=r"two images of .* have the key 'cat/001': .*cat/001\.jpg and .*cat/001\.png; rename one"
    ):
        pack(config(source, tmp_path / "out"))


@pytest.mark.parametrize("name", ["__cat__/1.png", "x" * 150 + ".png", "cat's & dog #1 é.png"])
def test_every_file_name_is_packed_so_that_it_can_be_read(tmp_path: Path, name: str) -> None:
    source = make_folder(tmp_path / "source", 3)
    (source / name).parent.mkdir(exist_ok=True)
    make_image(9).save(source / name)
    pack(config(source, tmp_path / "out"))
    sides = packed(tmp_path / "out")
    images = [sample.image for side in sides.values() for sample in side.values()]
    assert (source / name).read_bytes() in images
    assert len(images) == 4


def test_sources_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    single = make_folder(tmp_path / "single", 1)
    for source, changes, message in [
        (tmp_path / "nowhere", {}, "nowhere does not exist"),
        (tmp_path / "empty", {}, "holds no images"),
        (single, {}, "a split needs two"),
        (single, {"dataset": "foldr"}, "unknown data set 'foldr'; did you mean 'folder'"),
        (single, {"split": str(tmp_path / "gone.json")}, r"gone\.json does not exist"),
    ]:
        with pytest.raises(UsageError, match=message):
            pack(config(source, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_samples_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        make_image(number).save(source / f"{number}.png")
    manifest: Manifest = pack(config(source, tmp_path / "out"))
    sides = packed(tmp_path / "out")
    assert manifest.classes == ()
    assert {sample.label for side in sides.values() for sample in side.values()} == {None}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([40, 60, 1, 500, 99], [[40, 60], [1], [500], [99]]),
        ([1] * 7, [[1] * 3, [1] * 3, [1]]),
        ([1] * 6, [[1] * 3, [1] * 3]),
        ([0], [[0]]),
        ([], []),
    ],
)
def test_shards_are_cut_by_samples_and_bytes_but_hold_one_sample_at_least(
    sizes: list[int], expected: list[list[int]]
) -> None:
    assert [sizes[run] for run in cut(sizes, 3, 100)] == expected


class Interrupted(Exception):
    pass


def stopping(at: int) -> RunTasks:
    """Runs one by one, and stops before task number `at` of all."""
    count = 0

    def run(function: Callable[[Any], Any], tasks: Sequence[Any], what: str) -> Iterator[Any]:
        nonlocal count
        for task in tasks:
            if count == at:
                raise Interrupted
            count += 1
            yield function(task)

    return run


# One task of thumbnails, one of comparisons, three shards a side, and three tasks for the page of what was removed.
@pytest.mark.parametrize(("at", "then"), [(0, 7), (1, 7), (2, 5), (3, 4), (5, 2), (7, 0)])
def test_an_interrupted_pack_goes_on_to_the_same_bytes(tmp_path: Path, doubled: Path, at: int, then: int) -> None:
    changes = {"near_duplicates": 0.94, "shard_samples": 2, "size": 16}
    whole = pack(config(doubled, tmp_path / "whole", **changes))
    with pytest.raises(Interrupted):
        pack(config(doubled, tmp_path / "out", **changes), stopping(at))
    assert not (tmp_path / "out/manifest.json").exists()
    with pytest.raises(Interrupted):
        pack(config(doubled, tmp_path / "out", **changes), stopping(then))
    # Only the last shard and the page are left: no thumbnail and no committed shard once more.
    done: list[str] = []

    def counting(function: Callable[[Any], Any], tasks: Sequence[Any], what: str) -> Iterator[Any]:
        done.extend(getattr(task, "name", what.split(",")[0]) for task in tasks)
        return map(function, tasks)

    assert pack(config(doubled, tmp_path / "out", **changes), counting) == whole
    assert done == ["heldout/heldout-000002.tar", *["duplicates.html"] * 3]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_shard_that_was_written_but_not_committed_is_written_again(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 8)
    whole = pack(config(source, tmp_path / "whole", shard_samples=2))
    with pytest.raises(Interrupted):
        pack(config(source, tmp_path / "out", shard_samples=2), stopping(2))
    (tmp_path / "out/members/members-000001.tar").write_bytes(b"half")
    (tmp_path / "out/.pack/members-000001.json").unlink()
    assert pack(config(source, tmp_path / "out", shard_samples=2)) == whole
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_file_that_vanishes_after_it_was_listed_fails_by_name_and_the_pack_goes_on(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 8)
    victim = source / "dog/004.png"
    data = victim.read_bytes()
    whole = pack(config(source, tmp_path / "whole", shard_samples=2))

    def vanishing(function: Callable[[Any], Any], tasks: Sequence[Any], what: str) -> Iterator[Any]:
        victim.unlink()
        return map(function, tasks)

    with pytest.raises(RunError, match=r"dog/004\.png was listed but cannot be read: .*(No such file|not exist)"):
        pack(config(source, tmp_path / "out", shard_samples=2), vanishing)
    victim.write_bytes(data)
    assert pack(config(source, tmp_path / "out", shard_samples=2)) == whole
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_pack_is_left_as_it_is(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 8)
    first = pack(config(source, tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert pack(config(source, tmp_path / "out")) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"size": 8}, "size was null, is now 8"),
        ({"max_samples": 4}, "max_samples was null, is now 4"),
        ({"split": "split.json"}, r"split was null, is now \"[0-9a-f]+"),
        ({"source": "other"}, r"the content of listing has changed: its SHA-256 was [0-9a-f]+"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_pack_into_the_same_folder_is_refused_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], difference: str, finished: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make_folder(tmp_path / "source", 8)
    make_folder(tmp_path / "other", 9)
    write_split(tmp_path / "split.json", ["dog/000"], ["cat/001"])
    if finished:
        pack(config(source, tmp_path / "out"))
    else:
        with pytest.raises(Interrupted):
            pack(config(source, tmp_path / "out"), stopping(0))
    before = tree(tmp_path / "out")
    with pytest.raises(UsageError, match=rf"out holds another pack \({difference}"):
        pack(config(source, tmp_path / "out").model_copy(update=changes))
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("content", ["", "[]", '{"members": ["mine"], "heldout": []}'])
def test_a_plan_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/pack.json").write_text(content)
    with pytest.raises(UsageError, match=r"pack\.json is not the plan of a pack"):
        pack(config(make_folder(tmp_path / "source", 4), tmp_path / "out"))
    assert tree(tmp_path / "out") == {"pack.json": content.encode()}


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    source, out = make_folder(tmp_path / "source", 8), tmp_path / "out"
    pack(config(source, out))
    for name in ("counts.json", ".pack/members-000000.json"):
        (out / name).write_text("{}")
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"counts\.json is not the counts of a pack: "):
        list(describe(Location.of(out)))
    with pytest.raises(UsageError, match=r"members-000000\.json is not the description of a shard: "):
        pack(config(source, out))


def test_the_plan_is_a_split_file(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 8)
    first = pack(config(source, tmp_path / "out", seed=3))
    again = pack(config(source, tmp_path / "again", split=str(tmp_path / "out/pack.json")))
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in first.shards]
    assert again.split_sha256 == first.split_sha256


def test_sides_by_how_keys_begin(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 12)
    manifest = pack(config(source, tmp_path / "out", heldout="cat/"))
    members, heldout = keys(tmp_path / "out")
    assert ({key[:4] for key in members}, len(members)) == ({"dog/"}, 6)
    assert ({key[:4] for key in heldout}, len(heldout)) == ({"cat/"}, 6)
    assert manifest.split == "held-out begin with cat/, seed 0"
    pack(config(source, tmp_path / "narrow", members="dog/00", heldout="cat/0"))
    assert keys(tmp_path / "narrow")[0] == ["dog/000", "dog/002", "dog/004", "dog/006", "dog/008"]
    pack(config(source, tmp_path / "drawn", heldout="cat/", max_samples=7))
    drawn = keys(tmp_path / "drawn")
    assert (len(drawn[0]), len(drawn[1])) == (3, 4)
    assert set(drawn[0]) < set(members)
    assert set(drawn[1]) < set(heldout)


def test_a_near_duplicate_across_the_sides_is_no_held_out_sample(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 12)
    make_image(0).save(source / "val-copy.png")
    make_image(100).save(source / "val-other.png")
    manifest = pack(config(source, tmp_path / "out", heldout="val-", near_duplicates=0.94))
    members, heldout = keys(tmp_path / "out")
    assert (len(members), heldout) == (12, ["val-other"])
    assert "correlation 0.94; 1 removed" in manifest.split


def test_sides_that_ask_for_two_things_are_refused(tmp_path: Path) -> None:
    for changes, message in [
        ({"members": "train/"}, "members: give heldout too"),
        ({"heldout": "val/", "split": "split.json"}, "give a split file or heldout, not both"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(tmp_path, tmp_path / "out", **changes)


def test_from_a_bucket_to_a_bucket_gives_the_same_bytes(tmp_path: Path, bucket: str) -> None:
    source = make_folder(tmp_path / "source", 12)
    (source / "broken.png").write_bytes(b"<html>")
    for name, path in {str(path.relative_to(source)): path for path in source.rglob("*.*")}.items():
        (Location.of(bucket) / "source" / name).replace(path.read_bytes())
    changes = {"near_duplicates": 0.94, "shard_samples": 4, "max_reject_fraction": 0.1}
    whole = pack(config(source, tmp_path / "whole", **changes))
    there = PackConfig.model_validate(
        config(source, tmp_path, **changes).model_dump() | {"source": f"{bucket}/source", "out": f"{bucket}/out"}
    )
    with pytest.raises(Interrupted):
        pack(there, stopping(3))
    assert pack(there) == whole
    assert pack(there) == whole
    written = dict(sub_locations(Location.of(f"{bucket}/out"), ""))
    assert {name: location.read_bytes() for name, location in written.items()} == tree(tmp_path / "whole")
    (Location.of(bucket) / "other/notes.txt").replace(b"mine")
    with pytest.raises(UsageError, match="other is not empty"):
        pack(there.model_copy(update={"out": f"{bucket}/other"}))


def test_all_may_be_members(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 12)
    manifest = pack(config(source, tmp_path / "out", members_only=True, shard_samples=5))
    assert [(shard.side, shard.samples) for shard in manifest.shards] == [
        ("members", 5),
        ("members", 5),
        ("members", 2),
    ]
    drawn = pack(config(source, tmp_path / "drawn", members_only=True, max_samples=4))
    assert drawn.samples == 4
    with pytest.raises(ValidationError, match="members_only: leave out heldout"):
        config(source, tmp_path / "both", members_only=True, heldout=("cat/",))


def test_a_pack_of_before_there_was_a_choice_goes_on() -> None:
    """What was asked of it names no side that all are on."""
    plain = PackConfig(dataset="folder", source="s", out="o")
    assert "members_only" not in plain.science()
    assert plain.model_copy(update={"members_only": True}).science() == plain.science() | {"members_only": True}
