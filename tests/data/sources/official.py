"""Small sources in the official layout of each data set, and what packing them should give."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.conftest import make_image
from tests.data.sources.saved import save_dict

CAPTIONS = ("A dog runs.", "Un café à Zürich, “déjà vu”", "猫が座っている", "two | bars, a comma and\u2028a separator")
COUNT = 8


def odd_jpeg(number: int) -> bytes:
    """RGB, grayscale, CMYK and EXIF-rotated JPEGs in turn."""
    image = make_image(number, 24).crop((0, 0, 24, 16))
    exif = Image.Exif()
    if number % 4 == 3:
        exif[0x0112] = 6
    buffer = io.BytesIO()
    image.convert(("RGB", "L", "CMYK", "RGB")[number % 4]).save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


@dataclass
class Expected:
    """One packed sample."""

    key: str
    image: bytes
    caption: str | None
    metadata: dict[str, Any] | None = None
    label: int | None = None


def caption(number: int) -> str:
    return CAPTIONS[number % len(CAPTIONS)]


def _write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(odd_jpeg(number))


def celeba_original(folder: Path) -> list[Expected]:
    names = [f"{number + 1:06d}.jpg" for number in range(COUNT)]
    _write_images(folder / "img_align_celeba", names)
    lines = [f"{name} {number * 3 // COUNT}" for number, name in enumerate(names)]
    (folder / "Eval").mkdir()
    (folder / "Eval/list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    (folder / "Anno").mkdir()
    (folder / "Anno/list_attr_celeba.txt").write_text(
        f"{COUNT}\nMale Young \n" + "".join(f"{n} -1  1\n" for n in names)
    )
    return _celeba_expected(names, {"Male": -1, "Young": 1})


def celeba_kaggle(folder: Path) -> list[Expected]:
    names = [f"{number + 1:06d}.jpg" for number in range(COUNT)]
    _write_images(folder / "img_align_celeba/img_align_celeba", names)
    lines = ["image_id,partition", *(f"{name},{number * 3 // COUNT}" for number, name in enumerate(names))]
    (folder / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
    (folder / "list_attr_celeba.csv").write_text("image_id,Male\n" + "".join(f"{name},-1\n" for name in names))
    return _celeba_expected(names, {"Male": -1})


def _celeba_expected(names: list[str], attributes: dict[str, int]) -> list[Expected]:
    sides = [("train", "valid", "test")[number * 3 // COUNT] for number in range(COUNT)]
    keys = [f"{side}-{name.removesuffix('.jpg')}" for side, name in zip(sides, names, strict=True)]
    return [Expected(key, odd_jpeg(number), None, attributes) for number, key in enumerate(keys)]


def coco(folder: Path) -> list[Expected]:
    ids = [139 + 7 * number for number in range(COUNT)]
    _write_images(folder / "val2017", [f"{number:012d}.jpg" for number in ids])
    images = [{"license": 4, "file_name": f"{i:012d}.jpg", "height": 16, "width": 24, "id": i} for i in ids]
    entries: list[dict[str, Any]] = []
    for place in range(5):
        for number, i in enumerate(ids):
            text = caption(number) + "\n" if place == 0 else f"caption {place}"
            entries.append({"image_id": i, "id": 1000 * (5 - place) + number, "caption": text})
    content = {"info": {"year": 2017}, "licenses": [], "images": images[::-1], "annotations": entries}
    (folder / "annotations").mkdir()
    (folder / "annotations/captions_val2017.json").write_text(json.dumps(content))
    # The official archive has these as well, whether or not the training images were downloaded.
    (folder / "annotations/captions_train2017.json").write_text(json.dumps(content))
    (folder / "annotations/instances_val2017.json").write_text("{}")
    return [Expected(f"val2017/{i:012d}", odd_jpeg(n), caption(n)) for n, i in enumerate(ids)]


def _flickr_names() -> list[str]:
    return sorted(f"{1000092795 + 31 * number}.jpg" for number in range(COUNT))


def _flickr_expected() -> list[Expected]:
    return [Expected(name[:-4], odd_jpeg(n), caption(n)) for n, name in enumerate(_flickr_names())]


def _five(number: int) -> list[str]:
    return [caption(number), *(f"caption {place}" for place in range(1, 5))]


def flickr_token(folder: Path) -> list[Expected]:
    names = _flickr_names()
    _write_images(folder / "flickr30k-images", names)
    lines = [f"{name}#{i}\t{text}" for n, name in enumerate(names) for i, text in enumerate(_five(n))]
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _flickr_expected()


def flickr_json(folder: Path) -> list[Expected]:
    names = _flickr_names()
    _write_images(folder / "flickr30k-images", names)
    images = [
        {
            "sentids": list(range(5 * n, 5 * n + 5)),
            "imgid": n,
            "sentences": [
                {"tokens": [], "raw": text, "imgid": n, "sentid": 5 * n + i} for i, text in enumerate(_five(n))
            ],
            "split": "train",
            "filename": name,
        }
        for n, name in enumerate(names)
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images[::-1], "dataset": "flickr30k"}))
    return _flickr_expected()


def flickr_csv(folder: Path) -> list[Expected]:
    names = _flickr_names()
    _write_images(folder / "flickr30k_images/flickr30k_images", names)
    lines = [f"{name}| {i}| {text}" for n, name in enumerate(names) for i, text in enumerate(_five(n))]
    # As published: one fifth caption lacks the bar before it.
    lines[4] = lines[4].replace("| 4| ", "| 4   ")
    text = "image_name| comment_number| comment\n" + "\n".join(lines) + "\n"
    (folder / "flickr30k_images/results.csv").write_text(text, encoding="utf-8")
    return _flickr_expected()


def pokemon(folder: Path) -> list[Expected]:
    rows = [{"image": {"bytes": odd_jpeg(n), "path": None}, "text": caption(n)} for n in range(COUNT)]
    kind = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())],
        metadata={"huggingface": '{"info": {}}'},
    )
    name = "train-00000-of-00001-566cc9b19d7203f8"
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, kind), folder / f"data/{name}.parquet", row_group_size=3)
    (folder / "README.md").write_text("---\n")
    return [Expected(f"data/{name}-{n:06d}", odd_jpeg(n), caption(n)) for n in range(COUNT)]


def binary_parquet(folder: Path) -> list[Expected]:
    rows = {"image": [odd_jpeg(n) for n in range(COUNT)], "text": [caption(n) for n in range(COUNT)]}
    folder.mkdir()
    for part in range(2):
        half = {name: values[4 * part : 4 * part + 4] for name, values in rows.items()}
        pq.write_table(pa.table(half), folder / f"part.{part}.parquet")
    return [Expected(f"part_{n // 4}-{n % 4:06d}", odd_jpeg(n), caption(n)) for n in range(COUNT)]


def saved(folder: Path) -> list[Expected]:
    """Two splits that `datasets` saved to disk; the one that comes last by name is the first."""
    numbers = {"train": range(5), "test": range(5, COUNT)}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    tables = {
        split: pa.table(
            {
                "image": pa.array([{"bytes": odd_jpeg(n), "path": None} for n in some], kind),
                "text": [caption(n) for n in some],
            }
        )
        for split, some in numbers.items()
    }
    save_dict(folder, {split: [table] for split, table in tables.items()})
    return [
        Expected(f"{split}/data-00000-of-00001-{place:06d}", odd_jpeg(n), caption(n))
        for split, some in numbers.items()
        for place, n in enumerate(some)
    ]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def img2dataset(folder: Path) -> list[Expected]:
    """Two shards of five; the download of 000000004 and that of 000010001 failed and left no file."""
    folder.mkdir()
    expected = []
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for place in range(5):
                n, key = 4 * shard + place - shard * (place > 1), f"{shard:05d}{place:04d}"
                if place == (4, 1)[shard]:
                    continue
                record = {"url": f"https://example.org/{n}.jpg", "key": key, "status": "success", "caption": caption(n)}
                add(tar, f"{key}.jpg", odd_jpeg(n))
                add(tar, f"{key}.json", json.dumps(record, indent=4).encode())
                add(tar, f"{key}.txt", caption(n).encode())
                expected.append(Expected(f"{shard:05d}/{key}", odd_jpeg(n), caption(n), record))
        table = pa.table({"key": [f"{shard:05d}{place:04d}" for place in range(5)]})
        pq.write_table(table, folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": 5, "successes": 4}))
    return expected


def labelled_webdataset(folder: Path) -> list[Expected]:
    """Shards of a hub's ImageNet: class numbers, no captions, upper-case suffixes, folders inside."""
    (folder / "train").mkdir(parents=True)
    with tarfile.open(folder / "train/part-0.tar", "w") as tar:
        for n in range(COUNT):
            add(tar, f"./some.folder/{n}.cls", f"{11 * n}\n".encode())
            add(tar, f"./some.folder/{n}.JPG", odd_jpeg(n))
    return [Expected(f"train/part-0/some.folder/{n}", odd_jpeg(n), None, None, 11 * n) for n in range(COUNT)]


LAYOUTS = {
    "celeba original": ("celeba", celeba_original),
    "celeba kaggle": ("celeba", celeba_kaggle),
    "coco": ("coco", coco),
    "flickr token": ("flickr30k", flickr_token),
    "flickr karpathy": ("flickr30k", flickr_json),
    "flickr csv": ("flickr30k", flickr_csv),
    "pokemon": ("parquet", pokemon),
    "parquet binary": ("parquet", binary_parquet),
    "saved to disk": ("arrow", saved),
    "img2dataset": ("webdataset", img2dataset),
    "webdataset with labels": ("webdataset", labelled_webdataset),
}
