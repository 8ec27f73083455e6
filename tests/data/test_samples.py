"""From a tar's bytes to samples: every way a tar can be odd, and that what is wrong is named and counted."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from ldm_scale.data.samples import (
    DOTTED,
    LIMITS,
    NO_IMAGE,
    Sample,
    encode_metadata,
    group_entries,
    parse_samples,
    read_entries,
    split_name,
)
from tests.data.tars import with_checksum, write_sparsely
from tests.shards import tar

UNREADABLE_CAPTION = f"its caption is not UTF-8, or of more than {LIMITS['txt']} bytes"
NO_FILE = "one of its files is a link, a device or a sparse file"


NAMES = [
    "a.jpg",
    "a.b.jpg",
    "a/b.c/d.e.f",
    "README",
    ".hidden.jpg",
    "a/.jpg",
    "../a.jpg",
    "/a.jpg",
    "",
    ".",
    "a.",
    "a/b/",
]


@pytest.mark.parametrize("name", [*NAMES, "a\nb.jpg", "a.jpg\n", "a b\u00e9.JPG", "a..jpg", "a.jpg/b", "./a.txt"])
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    assert split_name(name) == base_plus_ext(name)


def parse(data: bytes) -> list[Sample]:
    return list(parse_samples(io.BytesIO(data)))


def faults(*files: tuple[str | tarfile.TarInfo, bytes]) -> dict[str, str | None]:
    """Each sample's fault, between two good ones that must be left as they are."""
    first, *found, last = parse(tar([("first.jpg", b"1"), *files, ("last.jpg", b"2")]))
    assert (first, last) == (Sample("first", b"1", "jpg"), Sample("last", b"2", "jpg"))
    for sample in found:
        assert sample.fault is None or sample.image == b""
    return {sample.key: sample.fault for sample in found}


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_good_samples_are_those_that_webdataset_reads() -> None:
    files = [("a.JPG", b"1"), ("a.txt", "猫".encode()), ("b/c.d.png", b"no image suffix"), ("b/c.png", b"2")]
    files += [("b/c.cls", b" 7\n"), ("./z.webp", b"3"), ("z.webp", b"4"), ("a/z.webp", b"5"), ("README", b"")]
    files += [(".hidden.jpg", b"6"), ("a.b/c.jpeg", b"7"), ("._a.jpg", b"8"), ("b/.jpg", b"9")]
    data = tar(files)
    named = ({**file, "__url__": ""} for file in tar_file_iterator(io.BytesIO(data)))
    expected = list(group_by_keys(named))
    found = parse(data)
    assert [sample.key for sample in found] == [entry["__key__"] for entry in expected]
    for sample, entry in zip(found, expected, strict=True):
        assert sample.fault is None
        assert sample.image == entry[sample.suffix]
    assert (found[0].caption, found[1].label) == ("猫", 7)


ODD_KEYS = [
    *("a b", "naïve/猫🐱", "a'b\"c`d$(e)", "a\nb\tc\rd\x1b[31m", "\u202eevil", "x" * 1000),
    *("../../etc/passwd", "/etc/passwd", "a//b", "s3:/bucket/key", "<script>alert(1)<", "a\\b", "-rf", "*?[x]", "%s%n"),
]


def test_what_macos_puts_beside_files_belongs_to_no_sample() -> None:
    """libarchive #900: its tar writes ._NAME in front of each NAME; WebDataset reads a sample `d/` of them."""
    beside = b"\0\5\26\7\0\2\0\0Mac OS X        "
    files = [(f"d/{mark}{number}.{suffix}", beside if mark else str(number).encode())
             for number in range(3) for suffix in ("jpg", "txt") for mark in ("._", "")]  # fmt: skip
    expected = [Sample(f"d/{number}", str(number).encode(), "jpg", (str(number),)) for number in range(3)]
    assert parse(tar(files)) == expected


@pytest.mark.parametrize(
    ("names", "faults_of"),
    [
        # webdataset #237 and datasets #7150: dots that are none in front of a suffix.
        (["235342 Track 2.0 (Clean Version).jpg"], {"235342 Track 2": DOTTED}),
        (["22.05.png", "22.06.png"], {"22": DOTTED}),
        # datasets #7055: several images a key.
        (["a.1.jpg", "a.2.jpg", "a.json"], {"a": DOTTED}),
        (["a.1.jpg", "a.jpg"], {"a": None}),
        (["a.seg.txt"], {"a": NO_IMAGE}),
    ],
)
def test_an_image_whose_name_has_several_dots_is_said_to_be_none(
    names: list[str], faults_of: dict[str, str | None]
) -> None:
    assert faults(*((name, b"{}") for name in names)) == faults_of


def test_a_number_that_json_lacks_is_null() -> None:
    """img2dataset #46: pandas' NaN in a caption and in a score, as Python writes it; shards hold JSON."""
    data = b'{"caption": NaN, "similarity": -Infinity, "width": 3}'
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.txt", b""), ("a.json", data)]))
    assert (sample.caption, sample.metadata) == ("", {"caption": None, "similarity": None, "width": 3})
    assert encode_metadata(sample.captions, sample.metadata) == b'{"caption": null, "similarity": null, "width": 3}'


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_name_is_only_a_name(key: str) -> None:
    assert faults((f"{key}.jpg", b"image")) == {key: None}


def test_bytes_of_a_name_that_are_not_utf8_are_shown() -> None:
    data = tar([("caf#.jpg", b"image")])
    header = data[:512].replace(b"caf#", b"caf\xe9")
    (sample,) = parse(with_checksum(header) + data[512:])
    assert (sample.key, sample.image) == ("caf\\xe9", b"image")
    sample.key.encode()


def test_too_long_keys_are_rejected_under_ids_that_differ_and_stay() -> None:
    names = [("dir/" + "x" * 1000 + str(number) + ".jpg", b"image") for number in range(2)]
    found = faults(*names)
    assert len(found) == 2
    assert set(found.values()) == {"a key of more than 1000 characters"}
    assert all(len(key) < 150 and key.startswith("dir/xxx") for key in found)
    assert found == faults(*names)


def test_a_key_that_comes_again_is_rejected_under_an_id_of_its_own() -> None:
    files = [
        ("a.jpg", b"1"),
        ("b.jpg", b"2"),
        ("a.jpg", b"3"),
        ("a.again-2.jpg", b"4"),
        ("b.txt", b"x"),
        ("a.png", b"5"),
    ]
    assert faults(*files) == {
        "a": None,
        "b": None,
        "a.again-2": "its key was there before",
        "b.again-2": "its key was there before",
        "a.again-3": "its key was there before",
    }


def test_the_ids_of_one_shard_are_distinct_whatever_its_names() -> None:
    names = ["a", "a.again-2", "a", "a.again-2", "b", "a", "x" * 2000, "a", "x" * 2000, "b.again-2", "b"]
    keys = [sample.key for sample in parse(tar((f"{name}.jpg", b"") for name in names))]
    assert len(set(keys)) == len(keys)


def test_adjacent_files_that_say_two_things_are_rejected() -> None:
    assert faults(("a.jpg", b"1"), ("a.jpg", b"2")) == {"a": "two files of one suffix"}
    assert faults(("a.jpg", b"1"), ("a.JPG", b"2")) == {"a": "two files of one suffix"}
    assert faults(("a.jpg", b"1"), ("a.txt", b"x"), ("a.txt", b"y")) == {"a": "two files of one suffix"}
    assert faults(("a.jpg", b"1"), ("a.png", b"2")) == {"a": "more than one image"}


def test_of_several_images_one_is_held() -> None:
    files = [(f"a.{suffix}", bytes(100)) for suffix in ("txt", "jpg", "png", "webp", "jpeg")]
    (group,) = group_entries(read_entries(io.BytesIO(tar(files))))
    held = {suffix for suffix, data in group.files.items() if data is not None}
    assert (held, group.fault) == ({"txt", "jpg"}, "more than one image")


def test_a_sample_without_an_image_is_rejected() -> None:
    assert faults(("a.txt", b"a caption"), ("b.gif", b"GIF89a"), ("c.pyd", b"")) == dict.fromkeys("abc", "no image")


@pytest.mark.parametrize(
    "info",
    [
        special("a.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("a.jpg", tarfile.LNKTYPE, "first.jpg"),
        special("a.jpg", tarfile.CHRTYPE),
        special("a.jpg", tarfile.BLKTYPE),
        special("a.jpg", tarfile.FIFOTYPE),
        special("a.jpg", b"?"),
    ],
)
def test_links_and_devices_are_rejected_by_name(info: tarfile.TarInfo) -> None:
    assert faults((info, b"")) == {"a": NO_FILE}


def test_a_link_in_place_of_a_caption_rejects_its_sample() -> None:
    assert faults(("a.jpg", b"1"), (special("a.txt", tarfile.SYMTYPE, "first.txt"), b"")) == {"a": NO_FILE}


def test_a_sparse_file_is_rejected_whatever_size_it_claims() -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**15), "GNU.sparse.realsize": str(10**15)}
    assert faults((info, b"1")) == {"a": NO_FILE}


def test_directories_belong_to_no_sample() -> None:
    assert faults((special("a.jpg", tarfile.DIRTYPE), b""), (special("./", tarfile.DIRTYPE), b"")) == {}


def test_outsized_files_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "jpg", 1000)
    assert faults(("a.jpg", bytes(1001)), ("b.jpg", bytes(1000))) == {
        "a": "an image file of more than 1000 bytes",
        "b": None,
    }
    data = tar([("a.jpg", bytes(1001)), ("a.pyd", b"pickle"), ("a.txt", bytes(1 << 20)), ("README.txt.bak", b"x")])
    assert [entry.data for entry in read_entries(io.BytesIO(data))] == [None] * 4


def caption_of(data: bytes) -> tuple[str | None, tuple[str, ...]]:
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.txt", data)]))
    assert sample.fault is None
    return sample.caption, sample.flaws


def test_captions_are_kept_as_they_are_or_not_at_all() -> None:
    longest = b"x" * (64 << 10)
    assert caption_of(b"") == ("", ())
    assert caption_of("a\0b\r\n猫 ".encode()) == ("a\0b\r\n猫 ", ())
    assert caption_of(longest) == (longest.decode(), ())
    for bad in (
        longest + b"x",
        b"x" * 10**6,
        b"caf\xe9",
        "\ud800".encode("utf-8", "surrogatepass"),
        "a".encode("utf-16"),
    ):
        assert caption_of(bad) == (None, (UNREADABLE_CAPTION,))


@pytest.mark.parametrize(
    ("text", "listed", "captions"),
    [
        ("a", ["a", "b", "a"], ("a", "b", "a")),
        ("a", ["b", "a"], ("a",)),
        ("a", "a", ("a",)),
        ("a", [], ("a",)),
        (None, ["a", "b"], ()),
        ("", ["", "b"], ("", "b")),
    ],
)
def test_several_captions_begin_with_the_txt(text: str | None, listed: object, captions: tuple[str, ...]) -> None:
    """Any other list is metadata."""
    files = [("a.jpg", b"1"), ("a.json", json.dumps({"captions": listed, "x": 1}).encode())]
    (sample,) = parse(tar(files + ([] if text is None else [("a.txt", text.encode())])))
    assert (sample.captions, sample.caption) == (captions, captions[0] if captions else None)
    assert sample.metadata == ({"x": 1} if len(captions) > 1 else {"captions": listed, "x": 1})
    assert (sample.fault, sample.flaws) == (None, ())


@pytest.mark.parametrize("other", [1, None, "\ud800", "x" * (64 << 10) + "x"])
def test_a_list_with_what_is_no_caption_gives_none(other: object) -> None:
    listed = json.dumps({"captions": ["a", other]}).encode()
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.txt", b"a"), ("a.json", listed)]))
    assert (sample.captions, sample.fault) == ((), None)
    assert sample.flaws == ("its json lists a caption that is no text, or too long",)


def padded(size: int) -> bytes:
    """A json of two captions and so many bytes."""
    start = json.dumps({"captions": ["a", "b"], "x": ""}).encode()
    return start.replace(b'""', b'"' + b"x" * (size - len(start)) + b'"')


@pytest.mark.parametrize(
    ("data", "captions"),
    [
        (padded(1 << 20), ("a", "b")),
        (padded((1 << 20) + 1), ()),
        (padded(1 << 20)[:-1], ()),
        (b"\xff", ()),
        (b"", ()),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ()),
        (b'["a", "b"]', ("a",)),
        (b"null", ("a",)),
    ],
)
def test_captions_are_known_only_if_the_json_is_read(data: bytes, captions: tuple[str, ...]) -> None:
    """For it may list more of them than the `txt`: a target that asks for captions rejects such a sample."""
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.txt", b"a"), ("a.json", data)]))
    assert (sample.image, sample.captions, sample.fault) == (b"1", captions, None)
    assert sample.flaws == (() if captions else (f"its json is none, or of more than {1 << 20} bytes",))


def test_a_mark_of_utf8_is_none_of_the_caption() -> None:
    listed = json.dumps({"captions": ["\ufeffa", "b"]}).encode()
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.txt", "\ufeffa".encode()), ("a.json", listed)]))
    assert sample.captions == ("a", "b")


@pytest.mark.parametrize(
    ("data", "label"),
    [
        *((b"0", 0), (b" 12\n", 12), (b"9" * 18, 10**18 - 1), (b"9" * 19, None), (b"9" * 1000, None), (b"-1", None)),
        *((b"cat", None), (b"", None), (b"1.5", None), (b"0x1", None), (b"1_0", None), ("٣".encode(), None)),
    ],
)
def test_labels_are_numbers_or_none(data: bytes, label: int | None) -> None:
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.cls", data)]))
    assert (sample.label, sample.flaws) == (label, () if label is not None else ("its class is no number",))


def test_metadata_are_an_object_or_nothing() -> None:
    (sample,) = parse(tar([("a.jpg", b"1"), ("a.json", b"[1]")]))
    assert sample == Sample("a", b"1", "jpg")
    for data in (b"{", b"\xff", b'{"a": ' + b"9" * 5000 + b"}", b" " * (1 << 20) + b"{}"):
        (sample,) = parse(tar([("a.jpg", b"1"), ("a.json", data)]))
        assert (sample.metadata, sample.fault, len(sample.flaws)) == (None, None, 1)


GOOD = tar([("a.jpg", b"1" * 600), ("b.jpg", b"2" * 600), ("c.jpg", b"3" * 600)])
B_HEADER = 512 + 1024


def with_pax(comment: int, **headers: str) -> bytes:
    """A tar whose second file has a long name or other extended headers."""
    info = tarfile.TarInfo("b.jpg")
    info.pax_headers = {"comment": "x" * comment} | headers
    return tar([("a.jpg", b"1"), (info, b"2"), ("c.jpg", b"3")])


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"<html><body>503 Slow Down</body></html>", b"<p>" * 9999, gzip.compress(GOOD), b"\x00" * 100),
        *(GOOD[:cut] for cut in (100, 512, 700, B_HEADER, B_HEADER + 100, B_HEADER + 512, B_HEADER + 600)),
        GOOD[:B_HEADER] + b"\xff" + GOOD[B_HEADER + 1 :],
        GOOD[: B_HEADER + 124] + b"\xff" * 12 + GOOD[B_HEADER + 136 :],
        with_pax(2 << 20),
        with_pax(10)[:1600],
        tar([(special("x", tarfile.XHDTYPE), b"")] * 3000),
    ],
    # Not the data, of which some have the time in them.
    ids=lambda data: f"{len(data)} bytes",
)
def test_what_is_no_whole_tar_is_an_error(data: bytes) -> None:
    with pytest.raises(tarfile.ReadError) as caught:
        parse(data)
    assert str(caught.value)


def test_a_tar_of_no_members_holds_no_samples() -> None:
    assert parse(tar([])) == []


def test_extended_headers_are_read() -> None:
    assert [sample.key for sample in parse(with_pax(1000))] == ["a", "b", "c"]
    assert [sample.key for sample in parse(with_pax(0, path="../猫.jpg"))] == ["a", "../猫", "c"]


def test_damaged_headers_never_raise_anything_else() -> None:
    data = with_pax(700, path="x" * 300 + ".jpg", size="1", mtime="12.5")
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(500):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 8)):
            damaged[place] = rng.integers(256)
        # Right checksums, so that what is behind them is reached.
        for start in range(0, len(damaged), 512):
            block = damaged[start : start + 512]
            if block[257:262] == b"ustar":
                damaged[start : start + 512] = with_checksum(block)
        try:
            parse(bytes(damaged))
        except tarfile.ReadError:
            errors += 1
    assert errors > 0


MEMORY = """
import resource, sys
from ldm_scale.data.samples import parse_samples

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as file:
    count = sum(len(sample.image) == 10**6 for sample in parse_samples(file))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    files = (("jpg", 10**6), ("bin", 10**6), ("txt", 10**5))
    write_sparsely(
        tmp_path / "a.tar", [(f"{number:08d}.{suffix}", size) for number in range(100) for suffix, size in files]
    )
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "a.tar")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, grown = map(int, printed.split())
    assert count == 100
    assert grown < 40_000  # KiB; the shard has 210 MB
