"""What a header declares is checked against what is there, before any reader of tars follows it."""

import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.data.samples import split_name
from ldm_scale.errors import RunError, UsageError
from tests.data.readers import READERS
from tests.data.tars import END, EXBI, extended, header, padded, record, write_sparsely

# Far more than any of these files takes, far less than what their headers ask for.
SECONDS = 2
GOOD = header("a.jpg", 3) + padded(b"one")
NEXT = header("b.jpg", 3) + padded(b"two")
SPARSE_MAP = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg"}


def records(**values: object) -> bytes:
    return b"".join(record(key, str(value)) for key, value in values.items())


HOSTILE = {
    "8 EiB": header("b.jpg", 8 * EXBI - 512),
    "8 EiB of no known suffix": header("b.bin", 8 * EXBI - 512),
    "8 EiB of an unknown type": header("b.jpg", 8 * EXBI - 512, b"?"),
    "a negative size": header("b.jpg", -EXBI),
    "PAX size of 2^63 - 1": extended(records(size=2**63 - 1)) + NEXT,
    "PAX size of 4,000 digits": extended(record("size", "9" * 4000)) + NEXT,
    "PAX size below zero": extended(records(size=-(10**6))) + NEXT,
    "PAX size in other digits": extended(record("size", "\u0663")) + NEXT,
    "PAX size beyond the end": extended(records(size=10**6)) + NEXT,
    "PAX size for all": extended(records(size=2**62), tarfile.XGLTYPE) + NEXT,
    "PAX name for all": extended(records(path="c.jpg"), tarfile.XGLTYPE) + NEXT,
    "PAX sparse of 1 TB": extended(record("GNU.sparse.realsize", str(10**12)) + records(size=10**12)) + NEXT,
    "old sparse of 1 TB stored": header("b.jpg", 10**12, tarfile.GNUTYPE_SPARSE),
    "old sparse whose map never ends": header("b.jpg", 512, tarfile.GNUTYPE_SPARSE, at_482=b"\1")
    + (bytes(504) + b"\1" + bytes(7)) * 3000,
    "extended header of 1 TB": header("pax", 10**12, tarfile.XHDTYPE) + NEXT,
    "extended headers of 1 MB each": extended(record("comment", "x" * 10**6)) * 3 + NEXT,
    "long names of 1 MB each": (header("n", 10**6, tarfile.GNUTYPE_LONGNAME) + padded(b"x" * 10**6)) * 3 + NEXT,
    "a chain of extended headers": extended(record("comment", "")) * 2000 + NEXT,
    "record longer than its header": extended(b"99 size=3\n") + NEXT,
    "record of no length": extended(b"0 size=3\n") + NEXT,
    "records inside of one another": extended(b"2 " * 400_000 + b"=\n") + NEXT,
    "record without an end": extended(b"9" * 900_000) + NEXT,
}
# Odd, but all of it is there: read as what it is, soon.
ODD = {
    "digits in a comment": (extended(record("comment", "1" * 900_000)) + NEXT, "b"),
    "a name of slashes": (extended(record("path", "/" * 400_000 + ".a/.b")) + NEXT, None),
    "sparse of 1 TB with its name": (extended(records(**SPARSE_MAP, **{"GNU.sparse.realsize": 10**12})) + NEXT, "b"),
    "old sparse of 1 TB": (header("b.jpg", 512, b"S", at_483=b"%011o\0" % 10**10) + bytes(512), "b"),
    "a comment for all": (extended(record("comment", "x"), tarfile.XGLTYPE) + NEXT, "b"),
    "a PAX size that is right": (extended(records(size=3)) + header("b.jpg", 0) + padded(b"two"), "b"),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("entry", HOSTILE.values(), ids=HOSTILE)
def test_a_length_that_is_not_there_is_an_error_at_once(
    entry: bytes, reader: Callable[[Path, int], object], tmp_path: Path
) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD + entry + END)
    start = time.monotonic()
    with pytest.raises((tarfile.ReadError, RunError, UsageError)) as caught:
        reader(tmp_path / "a.tar", 2)
    assert time.monotonic() - start < SECONDS
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("entry", "key"), ODD.values(), ids=ODD)
def test_what_is_there_is_read_whatever_its_headers_add(
    entry: bytes, key: str | None, reader: Callable[[Path, int], object], tmp_path: Path
) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD + entry + END)
    start = time.monotonic()
    reader(tmp_path / "a.tar", 1 if key is None else 2)
    assert time.monotonic() - start < SECONDS


def test_names_of_many_slashes_are_split_at_once() -> None:
    start = time.monotonic()
    assert split_name("/" * 10**6 + ".a/.b") == (None, None)
    assert split_name("/" * 10**6 + "a.b") == ("/" * 10**6 + "a", "b")
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize("name", ["8 EiB", "PAX size of 2^63 - 1", "old sparse of 1 TB stored"])
def test_a_tar_of_a_few_kb_that_declares_exbibytes_ends_validate(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], inline: None
) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD + HOSTILE[name] + END)
    assert main(["validate", "--shards", str(tmp_path), "--decode-share", "0", "--write-manifest"]) == 1
    assert re.search(rf"problem: cannot be read: .*declares.*{tmp_path}/a\.tar", capsys.readouterr().out)
    assert not (tmp_path / "manifest.json").exists()


def test_a_file_of_a_terabyte_that_is_there_is_passed_over(tmp_path: Path) -> None:
    """Of no known suffix, or of more than a sample's image may have: its bytes are not read."""
    write_sparsely(tmp_path / "a.tar", [("a.jpg", 3), ("a.bin", 10**12), ("b.jpg", 10**12)])
    start = time.monotonic()
    READERS["samples"](tmp_path / "a.tar", 2)
    assert time.monotonic() - start < SECONDS
