"""Every data set in its official layout, packed; and layouts with something missing or broken."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.data.counts import COUNTS, Counts
from ldm_scale.data.images import open_image
from ldm_scale.data.pack import pack
from ldm_scale.data.samples import DOTTED
from ldm_scale.data.sources import SOURCES
from ldm_scale.data.sources.items import Item
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_folder, make_image
from tests.data.packing import config, keys, packed, rejected
from tests.data.sources.official import COUNT, LAYOUTS, add, caption, odd_jpeg
from tests.shards import tar


def read(dataset: str, folder: Path) -> list[Item]:
    return SOURCES[dataset](Location.of(folder)).items


@pytest.mark.parametrize("layout", LAYOUTS)
def test_items_come_in_the_official_order_with_first_captions(tmp_path: Path, layout: str) -> None:
    dataset, write = LAYOUTS[layout]
    expected = write(tmp_path / "source")
    items = read(dataset, tmp_path / "source")
    assert [(item.key, next(iter(item.captions), None)) for item in items] == [
        (sample.key, sample.caption) for sample in expected
    ]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith(("coco", "flickr"))])
def test_all_five_captions_are_kept_in_their_order(tmp_path: Path, layout: str) -> None:
    dataset, write = LAYOUTS[layout]
    write(tmp_path / "source")
    for number, item in enumerate(read(dataset, tmp_path / "source")):
        assert item.captions == (caption(number), *(f"caption {place}" for place in range(1, 5)))


@pytest.mark.parametrize("near_duplicates", [0, 0.94])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_packed_byte_for_byte(tmp_path: Path, layout: str, near_duplicates: float) -> None:
    dataset, write = LAYOUTS[layout]
    expected = {sample.key: sample for sample in write(tmp_path / "source")}
    pack(config(tmp_path / "source", tmp_path / "out", dataset=dataset, near_duplicates=near_duplicates))
    sides = packed(tmp_path / "out")
    assert {side: len(samples) for side, samples in sides.items()} == {"members": COUNT // 2, "heldout": COUNT // 2}
    samples = sides["members"] | sides["heldout"]
    assert set(samples) == set(expected)
    for key, sample in samples.items():
        assert (sample.image, sample.caption, sample.suffix) == (expected[key].image, expected[key].caption, "jpg")
        assert (sample.metadata, sample.label) == (expected[key].metadata, expected[key].label)
        assert open_image(sample.image, 10**6).size == (24, 16)  # EXIF rotation left alone


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith(("celeba", "coco", "flickr"))])
def test_a_missing_image_is_named(tmp_path: Path, layout: str) -> None:
    dataset, write = LAYOUTS[layout]
    write(tmp_path / "source")
    victim = sorted((tmp_path / "source").rglob("*.jpg"))[3]
    victim.unlink()
    with pytest.raises(UsageError, match=rf"names '{victim.name}', which is not in "):
        read(dataset, tmp_path / "source")


LISTINGS = [
    ("celeba original", "Eval/list_eval_partition.txt"),
    ("celeba kaggle", "list_eval_partition.csv"),
    ("coco", "annotations/captions_val2017.json"),
    ("flickr token", "results_20130124.token"),
    ("flickr karpathy", "dataset_flickr30k.json"),
    ("flickr csv", "flickr30k_images/results.csv"),
    ("pokemon", "data/train-00000-of-00001-566cc9b19d7203f8.parquet"),
    ("webdataset with labels", "train/part-0.tar"),
]


@pytest.mark.parametrize(("layout", "listing"), LISTINGS)
def test_a_missing_listing_says_what_is_wanted(tmp_path: Path, layout: str, listing: str) -> None:
    dataset, write = LAYOUTS[layout]
    write(tmp_path / "source")
    (tmp_path / "source" / listing).unlink()
    wanted = {
        "celeba": "list_eval_partition.txt",
        "coco": "annotations/captions_NAME.json",
        "flickr30k": "results_20130124.token, dataset_flickr30k.json, results.csv",
        "parquet": r"no \.parquet file",
        "webdataset": r"no \.tar shards",
    }
    with pytest.raises(UsageError, match=wanted[dataset]):
        read(dataset, tmp_path / "source")


@pytest.mark.parametrize(
    "content", [b"a line of prose\n" * 3, b'{"images": [{}]}', b"[1, 2]", b"\xff\xfe\xff", b"[" * 100_000]
)
@pytest.mark.parametrize(("layout", "listing"), LISTINGS)
def test_a_broken_listing_is_named(tmp_path: Path, layout: str, listing: str, content: bytes) -> None:
    dataset, write = LAYOUTS[layout]
    write(tmp_path / "source")
    (tmp_path / "source" / listing).write_bytes(content)
    with pytest.raises(UsageError, match=listing.rsplit("/", 1)[-1]):
        read(dataset, tmp_path / "source")


def test_coco_parts_with_images_are_all_packed(tmp_path: Path) -> None:
    dataset, write = LAYOUTS["coco"]
    write(tmp_path)
    (tmp_path / "train2017").mkdir()
    for image in (tmp_path / "val2017").iterdir():
        (tmp_path / "train2017" / image.name).write_bytes(image.read_bytes())
    found = [item.key for item in read(dataset, tmp_path)]
    assert len(found) == 2 * COUNT
    assert found[0] == "train2017/000000000139"
    assert found[COUNT] == "val2017/000000000139"


def test_a_coco_image_without_captions_has_none(tmp_path: Path) -> None:
    dataset, write = LAYOUTS["coco"]
    write(tmp_path)
    listing = tmp_path / "annotations/captions_val2017.json"
    content = json.loads(listing.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 139]
    listing.write_text(json.dumps(content))
    assert [item.captions[:1] for item in read(dataset, tmp_path)][:2] == [(), (caption(1),)]


def test_flickr_images_outside_the_list_are_left_out(tmp_path: Path) -> None:
    dataset, write = LAYOUTS["flickr token"]
    write(tmp_path)
    make_image(0).save(tmp_path / "flickr30k-images/7.jpg")
    listing = SOURCES[dataset](Location.of(tmp_path))
    assert len(listing.items) == COUNT
    assert listing.skipped == {"not in the listing": (1, "flickr30k-images/7.jpg")}


@pytest.mark.parametrize("layout", ["flickr token", "celeba original"])
def test_another_image_of_the_same_name_is_never_taken_in_its_place(tmp_path: Path, layout: str) -> None:
    """A copy elsewhere is one that is not listed; of two that differ nothing tells which is meant."""
    dataset, write = LAYOUTS[layout]
    write(tmp_path)
    image = next(path for path in sorted(tmp_path.rglob("*.jpg")))
    copy = image.parent / "thumbnails" / image.name
    copy.parent.mkdir()
    copy.write_bytes(image.read_bytes())
    listing = SOURCES[dataset](Location.of(tmp_path))
    assert len(listing.items) == COUNT
    assert listing.skipped == {"not in the listing": (1, str(copy.relative_to(tmp_path)))}
    copy.write_bytes(b"smaller")
    with pytest.raises(UsageError, match=rf"{image.name} and .*thumbnails/{image.name} have one name"):
        read(dataset, tmp_path)


def test_a_list_that_says_two_things_of_an_image_is_refused(tmp_path: Path) -> None:
    dataset, write = LAYOUTS["celeba original"]
    write(tmp_path / "celeba")
    partitions = next((tmp_path / "celeba").rglob("list_eval_partition.txt"))
    name = partitions.read_text().split()[0]
    partitions.write_text(f"{partitions.read_text().rstrip()}\n{name} 2\n")
    with pytest.raises(UsageError, match=f"list_eval_partition.txt lists '{name}' twice"):
        read(dataset, tmp_path / "celeba")
    dataset, write = LAYOUTS["coco"]
    write(tmp_path / "coco")
    file = tmp_path / "coco/annotations/captions_val2017.json"
    content = json.loads(file.read_text())
    for changes in ({"id": 10**6}, {"file_name": content["images"][1]["file_name"]}):
        again = {**content, "images": [*content["images"], content["images"][0] | changes]}
        file.write_text(json.dumps(again))
        with pytest.raises(UsageError, match=r"captions_val2017\.json has two images of one id or of one file_name"):
            read(dataset, tmp_path / "coco")


def test_parquet_images_keep_their_format_and_need_no_captions(tmp_path: Path) -> None:
    images = []
    for kind in ("png", "webp", "jpeg"):
        make_image(0).save(tmp_path / f"image.{kind}")
        images.append((tmp_path / f"image.{kind}").read_bytes())
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"image": images}), tmp_path / "source/a.parquet")
    pack(config(tmp_path / "source", tmp_path / "out", dataset="parquet"))
    samples = [sample for side in packed(tmp_path / "out").values() for _, sample in side.items()]
    kept = dict(zip(("png", "webp", "jpg"), images, strict=True))
    assert {sample.suffix: sample.image for sample in samples} == kept
    assert [sample.caption for sample in samples] == [None] * 3


@pytest.mark.parametrize("value", [None, b"", b"no image"])
def test_parquet_rows_without_an_image_are_rejected(tmp_path: Path, value: bytes | None) -> None:
    LAYOUTS["pokemon"][1](tmp_path / "source")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": value, "path": "elsewhere.png"}] * 2, kind)
    pq.write_table(pa.table({"image": rows}), tmp_path / "source/b.parquet")
    changes = {"dataset": "parquet", "near_duplicates": 0.94, "max_reject_fraction": 0.2}
    manifest = pack(config(tmp_path / "source", tmp_path / "out", **changes))
    assert manifest.samples == COUNT
    assert set(rejected(tmp_path / "out")) == {"b-000000", "b-000001"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"]}, r"needs a column 'image'.*it has \['picture'\]"),
        ({"image": ["a/path.png"]}, "needs a column 'image'"),
        ({"image": [{"path": "a.png"}]}, "needs a column 'image'"),
        ({"image": [b"x"], "text": [[["one"], ["two"]]]}, "column 'text' must hold captions, a string or a list of"),
    ],
)
def test_parquet_columns_of_another_kind_are_named(tmp_path: Path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=message):
        read("parquet", tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_papers_index_file_decides_in_the_official_order(tmp_path: Path, layout: str) -> None:
    dataset, write = LAYOUTS[layout]
    expected = [sample.key for sample in write(tmp_path / "source")]
    split = tmp_path / "split.npz"
    np.savez(split, mia_train_idxs=[6, 0], mia_eval_idxs=[3], ratio=0.5)
    pack(config(tmp_path / "source", tmp_path / "out", dataset=dataset, split=str(split)))
    assert keys(tmp_path / "out") == (sorted([expected[6], expected[0]]), [expected[3]])


def test_an_index_file_for_a_folder_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "split.npz", mia_train_idxs=[0], mia_eval_idxs=[1])
    source = make_folder(tmp_path / "source", 4)
    with pytest.raises(UsageError, match=r"split\.npz numbers images, but a folder source has no fixed order"):
        pack(config(source, tmp_path / "out", split=str(tmp_path / "split.npz")))


def test_parquet_columns_are_named(tmp_path: Path) -> None:
    columns = {"jpg": [odd_jpeg(n) for n in range(4)], "alt": [caption(n) for n in range(4)], "text": ["other"] * 4}
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "source/a.parquet")
    changes = {"dataset": "parquet", "image_column": "jpg", "caption_column": "alt"}
    pack(config(tmp_path / "source", tmp_path / "out", **changes))
    sides = packed(tmp_path / "out")
    found = {sample.image: sample.caption for side in sides.values() for sample in side.values()}
    assert found == dict(zip(columns["jpg"], columns["alt"], strict=True))
    for name, column in (("image_column", "image"), ("caption_column", "caption")):
        with pytest.raises(UsageError, match=rf"column '{column}'"):
            pack(config(tmp_path / "source", tmp_path / "other", **changes | {name: column}))


def test_what_img2dataset_and_spark_leave_is_read_or_counted(tmp_path: Path) -> None:
    """img2dataset #11 and #447: a row a failed download, without an image, and checksums beside the files."""
    source = tmp_path / "source"
    source.mkdir()
    columns = {
        "caption": [caption(n) for n in range(4)],
        "status": ["success"] * 3 + ["failed_to_download"],
        "jpg": pa.array([*map(odd_jpeg, range(3)), None], pa.binary()),
    }
    pq.write_table(pa.table(columns), source / "00000.parquet")
    for name in ("00000_stats.json", "00000.parquet.crc", ".00000.parquet.crc", "_SUCCESS"):
        (source / name).write_bytes(b"crc\0")
    with pytest.raises(UsageError, match="--image-column names another"):
        read("parquet", source)
    changes = {"dataset": "parquet", "image_column": "jpg", "max_reject_fraction": 0.5}
    pack(config(source, tmp_path / "out", **changes))
    sides = packed(tmp_path / "out")
    assert {sample.image: sample.caption for side in sides.values() for sample in side.values()} == {
        odd_jpeg(n): caption(n) for n in range(3)
    }
    assert rejected(tmp_path / "out") == {"00000-000003": "no image"}
    counts = Counts.model_validate_json((tmp_path / "out" / COUNTS).read_bytes())
    assert (counts.seen, counts.read, sum(rule.count for rule in counts.skipped.values())) == (9, 1, 4)


def test_a_sample_may_say_other_things_than_the_first_ones(tmp_path: Path) -> None:
    """datasets #7549: a field that is null in the first samples, an empty list in others, or of two types."""
    said = [{"source": None, "tags": [], "n": "0"}, {"source": "x", "tags": ["a"], "n": 1}, {"n": [1, {"a": None}]}]
    files = [(f"{n}.{suffix}", data) for n, row in enumerate(said)
             for suffix, data in (("jpg", odd_jpeg(n)), ("json", json.dumps(row).encode()))]  # fmt: skip
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.tar").write_bytes(tar([*files, ("x.1.jpg", odd_jpeg(9))]))
    pack(config(tmp_path / "source", tmp_path / "out", dataset="webdataset", max_reject_fraction=0.5))
    sides = packed(tmp_path / "out")
    assert {key: sample.metadata for side in sides.values() for key, sample in side.items()} == {
        f"a/{n}": row for n, row in enumerate(said)
    }
    assert rejected(tmp_path / "out") == {"a/x": DOTTED}


def test_parquet_items_are_about_as_large_as_their_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.bytes(length) for length in (20_000, 40_000, 90_000, 10_000, 10_000)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=3)
    sizes = [item.location.size() for item in read("parquet", tmp_path)]
    np.testing.assert_allclose(sizes, [50_000] * 3 + [10_000] * 2, rtol=0.05)


@pytest.mark.parametrize("layout", [name for name, (dataset, _) in LAYOUTS.items() if dataset != "parquet"])
def test_sizes_are_known_without_reading(tmp_path: Path, layout: str) -> None:
    dataset, write = LAYOUTS[layout]
    expected = {sample.key: len(sample.image) for sample in write(tmp_path / "source")}
    assert {item.key: item.location.size() for item in read(dataset, tmp_path / "source")} == expected


def test_celeba_needs_no_attributes(tmp_path: Path) -> None:
    LAYOUTS["celeba original"][1](tmp_path)
    (tmp_path / "Anno/list_attr_celeba.txt").unlink()
    assert {str(item.metadata) for item in read("celeba", tmp_path)} == {"None"}


@pytest.mark.parametrize("content", ["", "8\n", "8\nMale\n", "8\nMale\n000001.jpg 1 1\n", "8\nMale\n000001.jpg 2\n"])
def test_a_broken_list_of_attributes_is_named(tmp_path: Path, content: str) -> None:
    LAYOUTS["celeba original"][1](tmp_path)
    (tmp_path / "Anno/list_attr_celeba.txt").write_text(content)
    with pytest.raises(UsageError, match=r"list_attr_celeba\.txt"):
        read("celeba", tmp_path)


def test_a_failed_download_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source/0.tar", "w") as tar:
        for key in "abc":
            add(tar, f"{key}.jpg", odd_jpeg(0))
        add(tar, "d.json", b"{}")
    changes = {"dataset": "webdataset", "max_reject_fraction": 0.3}
    assert pack(config(tmp_path / "source", tmp_path / "out", **changes)).samples == 3
    assert rejected(tmp_path / "out") == {"0/d": "no image"}


def test_a_tar_of_nothing_is_refused_as_validate_refuses_it(tmp_path: Path) -> None:
    dataset, write = LAYOUTS["img2dataset"]
    write(tmp_path / "source")
    (tmp_path / "source/zeros.TAR").write_bytes(bytes(10_240))
    with pytest.raises(UsageError, match=r"zeros\.TAR holds no samples"):
        read(dataset, tmp_path / "source")


def test_a_shard_that_names_a_file_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.jpg", "a.JPG"):
            add(tar, name, odd_jpeg(0))
    with pytest.raises(UsageError, match=r"0\.tar holds a\.JPG twice"):
        read("webdataset", tmp_path)


def test_our_own_shards_are_packed_again_with_labels_and_captions(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 12)
    pack(config(source, tmp_path / "first", shard_samples=3))
    pack(config(tmp_path / "first", tmp_path / "again", dataset="webdataset", seed=5))
    first, again = (
        [*found["members"].values(), *found["heldout"].values()]
        for found in (packed(tmp_path / name) for name in ("first", "again"))
    )
    assert {(s.image, s.caption, s.label) for s in first} == {(s.image, s.caption, s.label) for s in again}
