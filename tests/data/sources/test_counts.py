"""Every file that is seen is taken, rejected, a near-duplicate, not drawn, read or skipped by a rule: it adds up."""

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.cli import main
from ldm_scale.data.pack import pack
from ldm_scale.data.sources import SOURCES
from ldm_scale.files.storage import BROKEN_LINK, SPECIAL
from tests.conftest import make_folder, make_image
from tests.data.packing import config, packed, rejected
from tests.data.sources.official import COUNT, LAYOUTS, add, odd_jpeg
from tests.data.sources.saved import save_to_disk
from tests.data.sources.test_cifar10 import write_binary, write_python
from tests.data.sources.test_emoji import emoji, write_emoji
from tests.data.sources.test_imagenet import write_devkit, write_folders, write_tar, write_validation

# What systems and programs leave, with the rule that skips it.
LEFTOVERS = {
    "._a.jpg": "macOS's own file",
    ".DS_Store": "macOS's own file",
    "__MACOSX/b.jpg": "macOS's own file",
    ".ipynb_checkpoints/c-checkpoint.jpg": "Jupyter's copy",
    "Thumbs.db": "Windows' own file",
    "deep/desktop.ini": "Windows' own file",
    ".hidden.jpg": "hidden file",
    ".cache/d.jpg": "hidden file",
}


def encoded(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    make_image(number).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def inside(path: Path) -> int:
    """How many files, rows or arrays are inside of a file that holds many."""
    if path.suffix == ".arrow":
        with pa.ipc.open_stream(path) as stream:
            return stream.read_all().num_rows
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).metadata.num_rows
    if path.suffix == ".arrow":
        return len(pa.ipc.open_stream(path).read_all())
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            files = [member for member in tar if member.isfile()]
            inner = [tar.extractfile(member) for member in files if member.name.endswith(".tar")]
            return sum(len(tarfile.open(fileobj=file).getmembers()) for file in inner) or len(files)
    return 3 if "_batch" in path.name else 0


def imagenet_tars(folder: Path) -> None:
    write_tar(folder)
    write_devkit(folder)
    write_validation(folder, "tar")


def write_arrow(folder: Path) -> None:
    tables = [pa.table({"image": [odd_jpeg(number) for number in range(start, start + 3)]}) for start in (0, 3)]
    save_to_disk(folder, tables)


EMOJI = [emoji(code) for code in ("1F600", "1F601", "1F602")]
# Source, what writes it, its images, and how many files it holds that it does not look at (Parquet beside tars is
# counted as one file, for it is not opened).
SOURCES_WRITTEN: dict[str, tuple[str, Callable[[Path], object], int, int]] = {
    **{name: (dataset, write, COUNT, 0) for name, (dataset, write) in LAYOUTS.items()},
    "coco": ("coco", LAYOUTS["coco"][1], COUNT, 2),
    "pokemon": ("parquet", LAYOUTS["pokemon"][1], COUNT, 1),
    "img2dataset": ("webdataset", LAYOUTS["img2dataset"][1], COUNT, 4),
    "cifar10 binary": ("cifar10", write_binary, 18, 1),
    "cifar10 python": ("cifar10", write_python, 18, 0),
    "emoji": ("emoji", lambda folder: write_emoji(folder, *EMOJI), 3, 1),
    "imagenet folders": ("imagenet", lambda folder: write_folders(folder / "train"), 12, 0),
    "imagenet tars": ("imagenet", imagenet_tars, 17, 0),
    "arrow": ("arrow", write_arrow, 6, 0),
    "folder": ("folder", lambda folder: make_folder(folder, 6), 6, 0),
}


def test_every_source_is_tried() -> None:
    assert {dataset for dataset, *_ in SOURCES_WRITTEN.values()} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES_WRITTEN)
def test_the_counts_add_up_in_every_source(tmp_path: Path, name: str) -> None:
    dataset, write, images, unused = SOURCES_WRITTEN[name]
    source = tmp_path / "source"
    write(source)
    files = [path for path in source.rglob("*") if path.is_file()]
    opened = sum(inside(path) for path in files if dataset != "webdataset" or path.suffix == ".tar")
    for path in (*LEFTOVERS, "notes.md"):
        put(source / path, b"left here")
    manifest = pack(config(source, tmp_path / "out", dataset=dataset))
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    skipped = {rule: found["count"] for rule, found in counts.pop("skipped").items()}
    said = [sample for side in packed(tmp_path / "out").values() for sample in side.values()]
    assert counts.pop("captioned") == sum(sample.caption is not None for sample in said)
    assert counts.pop("classed") == sum(sample.label is not None for sample in said)
    assert manifest.samples == counts["taken"] == images
    assert counts.pop("seen") == len(files) + opened + len(LEFTOVERS) + 1
    rules = list(LEFTOVERS.values())
    assert {rule: count for rule, count in skipped.items() if rule in rules} == {r: rules.count(r) for r in rules}
    assert sum(skipped.values()) == len(LEFTOVERS) + 1 + unused
    assert sum(counts.values()) == len(files) - unused + opened


def test_entries_of_a_tar_that_belong_to_no_sample_are_counted(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source/0.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "c.jpg", "._a.jpg", "README", "__MACOSX/d.jpg", "a.npy"):
            add(tar, name, odd_jpeg(len(name)))
        add(tar, "a.txt", b"a caption")
        add(tar, "failed.json", b"{}")
    pack(config(tmp_path / "source", tmp_path / "out", dataset="webdataset", max_reject_fraction=0.5))
    assert json.loads((tmp_path / "out/counts.json").read_text()) == {
        # One file, its nine entries, and the image that failed.json has not.
        "seen": 11,
        "taken": 3,
        "rejected": 1,
        "near_duplicates": 0,
        "not_drawn": 0,
        "read": 3,
        "skipped": {
            "an entry without key or suffix": {"count": 1, "first": "0.tar/README"},
            "macOS's own file": {"count": 2, "first": "0.tar/._a.jpg"},
            "of no use to this kind of source": {"count": 1, "first": "0.tar/a.npy"},
        },
        "captioned": 1,
        "classed": 0,
    }


def test_links_in_a_tar_reject_their_samples(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source/0.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            add(tar, name, odd_jpeg(len(name)))
        for name in ("c.txt", "d.jpg", "README"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
            tar.addfile(link)
    pack(config(tmp_path / "source", tmp_path / "out", dataset="webdataset", max_reject_fraction=0.5))
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    reason = "one of its files is a link, a device or a sparse file"
    assert rejected(tmp_path / "out") == {"0/c": reason, "0/d": reason}
    assert (counts["seen"], counts["taken"], counts["rejected"], counts["read"]) == (7, 2, 2, 2)
    assert counts["skipped"] == {"an entry without key or suffix": {"count": 1, "first": "0.tar/README"}}


def test_links_that_lead_nowhere_and_pipes_are_counted(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 4)
    (source / "cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    (source / "cat/whole.png").symlink_to(source / "dog/000.png")
    os.mkfifo(source / "dog/pipe.png")
    (source / "again").symlink_to(source)
    assert pack(config(source, tmp_path / "out")).samples == 5
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    assert (counts["seen"], counts["read"]) == (11, 4)
    assert counts["skipped"] == {
        BROKEN_LINK: {"count": 1, "first": "cat/gone.png"},
        SPECIAL: {"count": 1, "first": "dog/pipe.png"},
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_samples": 5}, (5, 0, 0, 7)),
        ({"near_duplicates": 0.99}, (11, 0, 1, 0)),
        ({"near_duplicates": 0.99, "max_samples": 4}, (4, 0, 1, 7)),
        ({"members": "dog/00", "heldout": "cat/"}, (10, 0, 0, 2)),
        ({"split": "split.json"}, (3, 0, 0, 9)),
    ],
)
def test_images_that_are_left_out_are_counted_by_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: tuple[int, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make_folder(tmp_path / "source", 11)
    make_image(4).save(source / "dog/copy.png")
    (tmp_path / "split.json").write_text(json.dumps({"members": ["dog/000", "dog/002"], "heldout": ["cat/001"]}))
    pack(config(source, tmp_path / "out", **changes))
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    assert tuple(counts[name] for name in ("taken", "rejected", "near_duplicates", "not_drawn")) == expected
    assert (counts["seen"], counts["read"], counts["skipped"]) == (23, 11, {})


def write_messy(folder: Path) -> None:
    """One folder with all of it: what people and programs leave, odd formats, broken images, captions everywhere."""
    for number, (name, kind) in enumerate(
        {
            "cat/1.png": "PNG",
            "cat/2.JPG": "JPEG",
            "cat/3.tif": "TIFF",
            "cat/4.gif": "GIF",
            "dog/5.bmp": "BMP",
            "dog/6.jfif": "JPEG",
            "dog/7.dat": "PNG",
            "dog/8": "WEBP",
            "dog/re\u0301sume\u0301.png": "PNG",
            "dog/deep/10.webp": "WEBP",
        }.items()
    ):
        put(folder / name, encoded(number, kind))
    for path in LEFTOVERS:
        put(folder / path, encoded(0))
    put(folder / "dog/copy.png", encoded(0))
    put(folder / "dog/empty.png", b"")
    put(folder / "dog/page.jpg", b"<html>")
    put(folder / "dog/cut.png", encoded(20)[:80])
    put(folder / "README.md", b"# Cats and dogs")
    put(folder / "cat/list.zip", b"PK")
    put(folder / "cat/1.txt", "\ufeffun café".encode())
    put(folder / "cat/2.txt", "Zürich".encode("utf-16"))
    rows = [f'5.bmp,"number {place}, of five"' for place in range(5)] + ["r\u00e9sum\u00e9.png,composed"]
    put(folder / "dog/metadata.csv", "\ufeff".encode() + "\r\n".join(["file_name,text", *rows]).encode())
    put(folder / "dog/deep/metadata.jsonl", b'{"file_name": "10.webp", "caption": ["one", "two"], "label": "cat"}\n')


@pytest.mark.usefixtures("inline")
def test_a_messy_folder_is_counted_to_the_last_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_messy(source)
    options = ["--near-duplicates", "0.99", "--max-reject-fraction", "0.3", "--max-samples", "9"]
    assert main(["pack", "folder", str(source), str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"seen 28: 9 taken, 3 rejected, 1 near-duplicates, 1 not drawn, 4 read .*, 10 skipped", printed)
    assert "class names: 0 cat, 1 dog" in printed
    assert "of those taken 5 with a caption, 9 with a class" in printed
    counts = json.loads((out / "counts.json").read_text())
    assert {rule: found["count"] for rule, found in counts["skipped"].items()} == {
        "Jupyter's copy": 1,
        "Windows' own file": 2,
        "hidden file": 2,
        "macOS's own file": 3,
        "no image by its bytes": 2,
    }
    assert counts["seen"] == sum(len(files) for _, _, files in os.walk(source)) == 28
    assert set(rejected(out)) == {"dog/cut", "dog/empty", "dog/page"}


def test_the_images_of_a_messy_folder_have_the_right_captions_and_classes(tmp_path: Path) -> None:
    write_messy(tmp_path / "source")
    pack(config(tmp_path / "source", tmp_path / "out", max_reject_fraction=0.3, size=8))
    samples = {key: sample for side in packed(tmp_path / "out").values() for key, sample in side.items()}
    assert {key: (sample.caption, sample.label) for key, sample in samples.items()} == {
        "cat/1": ("un café", 0),
        "cat/2": ("Zürich", 0),
        "cat/3": (None, 0),
        "cat/4": (None, 0),
        "dog/5": ("number 0, of five", 1),
        "dog/6": (None, 1),
        "dog/7": (None, 1),
        "dog/8": (None, 1),
        "dog/copy": (None, 1),
        "dog/r\u00e9sum\u00e9": ("composed", 1),
        "dog/deep/10": ("one", 0),
    }
