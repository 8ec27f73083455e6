"""Text of other encodings: the right text if its mark names it, or else one line with file, line and byte."""

import codecs
import io
import json
import tarfile
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.data.pack import pack
from ldm_scale.data.sources import SOURCES
from ldm_scale.data.sources.folder import read_folder
from ldm_scale.data.sources.text import BadText, decode_text
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_folder, make_image
from tests.data.packing import config, packed, rejected
from tests.data.sources.official import COUNT, LAYOUTS, add

TEXT = "Un café à Zürich, 猫\nsecond line"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
    ],
)
def test_text_with_a_mark_is_what_it_says(data: bytes) -> None:
    assert decode_text(data) == TEXT


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("one\ntwo é".encode("latin-1"), "line 2, byte 8"),
        ("“quoted”".encode("cp1252"), "line 1, byte 0"),
        ("plain".encode("utf-16-le"), "line 1, byte 1"),
        (codecs.BOM_UTF8 + b"a\n\xff", "line 2, byte 5"),
        (codecs.BOM_UTF16_LE + b"a\0b", "line 1, byte 4"),
    ],
)
def test_text_of_another_encoding_is_refused_by_its_place(data: bytes, place: str) -> None:
    with pytest.raises(BadText, match=f"^{place}: "):
        decode_text(data)


TEXTS = [
    ("celeba original", "Eval/list_eval_partition.txt"),
    ("celeba original", "Anno/list_attr_celeba.txt"),
    ("celeba kaggle", "list_eval_partition.csv"),
    ("coco", "annotations/captions_val2017.json"),
    ("flickr token", "results_20130124.token"),
    ("flickr karpathy", "dataset_flickr30k.json"),
    ("flickr csv", "flickr30k_images/results.csv"),
]


@pytest.mark.parametrize(("layout", "name"), TEXTS)
def test_every_list_of_every_source_may_have_a_mark_and_no_other_encoding(
    tmp_path: Path, layout: str, name: str
) -> None:
    dataset, write = LAYOUTS[layout]
    expected = {sample.key for sample in write(tmp_path / "source")}
    path = tmp_path / "source" / name
    text = path.read_text()
    path.write_bytes(text.encode("utf-16"))
    pack(config(tmp_path / "source", tmp_path / "out", dataset=dataset))
    assert {key for side in packed(tmp_path / "out").values() for key in side} == expected
    path.write_bytes(text.encode() + b"\xe9")
    line = text.count("\n") + 1
    with pytest.raises(UsageError, match=rf"{path.name} line {line}, byte {len(text.encode())}: "):
        pack(config(tmp_path / "source", tmp_path / "other", dataset=dataset))


@pytest.mark.parametrize("name", ["cat/001.txt", "metadata.csv", "metadata.jsonl"])
def test_a_bad_text_ends_the_command_with_one_line_before_any_work(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_folder(tmp_path / "source", 4)
    (source / name).write_bytes("file_name,caption\ncat/001.png,café\n".encode("latin-1"))
    assert main(["pack", "folder", str(source), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert f"{source / name} line 2, byte 33: " in error
    assert not (tmp_path / "out").exists()


def test_a_file_name_that_is_not_utf8_is_refused_as_it_can_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_folder(tmp_path / "source", 4)
    buffer = io.BytesIO()
    make_image(9).save(buffer, "PNG")
    Path(bytes(source).decode() + "/caf\udce9.png").write_bytes(buffer.getvalue())
    assert main(["pack", "folder", str(source), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "caf\\xe9.png: a file name that is not UTF-8" in error
    with pytest.raises(UsageError, match="not UTF-8"):
        read_folder(Location.of(source))


def test_a_caption_that_no_reader_of_shards_takes_rejects_its_image(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 5)
    (source / "metadata.csv").write_text(f"file_name,text\ncat/001.png,{'x' * 65_536}\ncat/003.png,{'é' * 32_769}\n")
    pack(config(source, tmp_path / "out", max_reject_fraction=0.2))
    captions = {key: sample.caption for side in packed(tmp_path / "out").values() for key, sample in side.items()}
    assert captions["cat/001"] == "x" * 65_536
    assert rejected(tmp_path / "out") == {"cat/003": "a caption of more than 65536 bytes"}


@pytest.mark.parametrize(("size", "rejects"), [(61_000, 0), (62_000, 1)])
def test_captions_that_together_no_reader_takes_reject_their_image(tmp_path: Path, size: int, rejects: int) -> None:
    source = make_folder(tmp_path / "source", 4)
    texts = [f"{number:02d}".ljust(size, "x") for number in range(17)]
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "cat/001.png", "text": texts}))
    pack(config(source, tmp_path / "out", max_reject_fraction=0.25))
    captions = {key: sample.captions for side in packed(tmp_path / "out").values() for key, sample in side.items()}
    assert captions.get("cat/001") == (None if rejects else tuple(texts))
    if rejects:
        assert rejected(tmp_path / "out") == {"cat/001": "captions and metadata of more than 1048576 bytes"}


@pytest.mark.parametrize("layout", sorted({layout for layout, _ in TEXTS}))
def test_every_list_may_name_files_in_the_other_unicode_form(tmp_path: Path, layout: str) -> None:
    dataset, write = LAYOUTS[layout]
    write(tmp_path / "source")
    image = sorted((tmp_path / "source").rglob("*.jpg"))[0]
    image.rename(image.with_name(f"e\u0301{image.name}"))
    for file in (tmp_path / "source" / path for _, path in TEXTS):
        if file.is_file():
            file.write_text(file.read_text().replace(image.name, f"\u00e9{image.name}"))
    items = SOURCES[dataset](Location.of(tmp_path / "source")).items
    assert any(item.key.endswith(f"\u00e9{image.stem}") for item in items)
    assert len(items) == COUNT


def test_a_sample_of_a_shard_whose_text_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    texts = {"a": TEXT.encode(), "b": TEXT.encode("utf-16"), "c": "café".encode("latin-1"), "d": b"x" * 70_000}
    with tarfile.open(tmp_path / "source/0.tar", "w") as tar:
        for number, (key, text) in enumerate(texts.items()):
            buffer = io.BytesIO()
            make_image(number).save(buffer, "PNG")
            add(tar, f"{key}.png", buffer.getvalue())
            add(tar, f"{key}.txt", text)
        add(tar, "e.png", buffer.getvalue())
        add(tar, "e.cls", b"seven")
        add(tar, "f.png", buffer.getvalue())
        add(tar, "f.txt", b"first")
        add(tar, "f.json", json.dumps({"captions": ["first", "second"], "x": "x" * (1 << 20)}).encode())
        add(tar, "g.png", buffer.getvalue())
        add(tar, "g.jpg", buffer.getvalue())
    pack(config(tmp_path / "source", tmp_path / "out", dataset="webdataset", max_reject_fraction=0.8))
    captions = {key: sample.caption for side in packed(tmp_path / "out").values() for key, sample in side.items()}
    assert captions == {"0/a": TEXT, "0/b": TEXT}
    assert {key: reason[:19] for key, reason in rejected(tmp_path / "out").items()} == {
        "0/c": "its caption: line 1",
        "0/d": "a caption of more t",
        "0/e": "its class is no num",
        "0/f": "its json is none, o",
        "0/g": "more than one image",
    }
