"""Addresses, listings, and writes that appear whole or not at all."""

import errno
import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from ldm_scale.errors import ExistsError, RunError, UsageError
from ldm_scale.files.storage import BROKEN_LINK, SPECIAL, Location, encode_table, read_table, sub_locations
from tests.files.users import as_another_user, open_to_all


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    assert Location.of("a/../b/").uri == str(tmp_path / "b")
    assert Location.of(Path("b")) == Location.of("./b")
    assert Location.of("~/c").uri == "/somebody/c"
    assert Location.of(Location.of("b")) == Location.of("b")


def test_s3_addresses_are_kept_without_a_last_slash() -> None:
    location = Location.of("s3://bucket/some/folder/")
    assert str(location) == "s3://bucket/some/folder"
    assert str(location / "x.tar") == "s3://bucket/some/folder/x.tar"
    assert (location / "x.tar").name == "x.tar"
    assert not location.is_local
    assert Location.of("/tmp/x").is_local


@pytest.mark.parametrize("address", ["https://example.org/x", "gs://bucket/x", "file:///tmp/x", "hf://user/x"])
def test_other_addresses_are_refused_by_name(address: str) -> None:
    with pytest.raises(UsageError, match=f"^{address}: only local paths and s3://"):
        Location.of(address)


@pytest.mark.parametrize("address", ["s3://", "s3:///", "s3:///x"])
def test_an_address_without_a_bucket_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=f"^{address}: this S3 address names no bucket$"):
        Location.of(address)


def test_a_location_knows_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    there, folder, nowhere = (Location.of(tmp_path / name) for name in ("file", "folder", "nowhere"))
    assert [(x.is_file(), x.is_dir()) for x in (there, folder, nowhere)] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert there.name == "file"
    assert there.read_text() == "12345"
    with there.open_stream() as stream:
        assert stream.read(2) == b"12"


def test_emptiness_of_folders_files_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    (tmp_path / "nested/inner").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    found = {name: Location.of(tmp_path / name).is_empty() for name in ("full", "nested", "empty", "file", "nowhere")}
    assert found == {"full": False, "nested": False, "empty": True, "file": False, "nowhere": True}


def test_files_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt", "sub/d.tar", "a.tar.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    folder = Location.of(tmp_path)
    assert [x.name for x in folder.files(".tar")] == ["a.tar", "b.tar"]
    assert [x.name for x in folder.files()] == ["a.tar", "a.tar.partial", "b.tar", "c.txt"]
    assert [relative for relative, _ in sub_locations(folder, ".tar")] == ["a.tar", "b.tar", "sub/d.tar"]
    assert [x for _, x in sub_locations(folder, ".tar")] == folder.files(".tar", recursive=True)
    assert (folder / "nowhere").files() == []


LISTINGS = {
    "files": lambda folder: folder.files(),
    "tree": lambda folder: folder.files(".tar", recursive=True),
    "folders": lambda folder: folder.folders(),
    "versions": lambda folder: folder.versions(),
}
Listed = Callable[[Location], object]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_a_folder_that_cannot_be_listed_is_an_error_by_name(
    listing: Listed, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> Iterator[os.DirEntry[str]]:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught:
        listing(Location.of(tmp_path))
    assert caught.value.errno == code


@pytest.mark.parametrize("listing", ["tree", "versions"])
def test_one_folder_below_that_cannot_be_listed_is_an_error(
    listing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def fail(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError, match="shut"):
        LISTINGS[listing](Location.of(tmp_path))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_cannot_be_looked_at_is_not_taken_for_absent(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> os.stat_result:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "stat", fail)
    for look in (Location.is_file, Location.is_dir, Location.is_empty):
        with pytest.raises(OSError, match=r"run\.json"):
            look(Location(f"{tmp_path}/run.json"))


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_a_folder_of_another_user_is_an_error(listing: Listed) -> None:
    with open_to_all() as folder:
        (folder / "private").mkdir(mode=0)
        with as_another_user(), pytest.raises(PermissionError, match="private"):
            listing(Location.of(folder / "private"))
        with as_another_user(), pytest.raises(PermissionError, match="private"):
            (Location.of(folder / "private") / "run.json").is_file()


def leads_nowhere(folder: Path) -> None:
    """Three links that lead nowhere and a pipe, beside a file."""
    (folder / "a.tar").write_text("")
    (folder / "gone.tar").symlink_to(folder / "nowhere")
    (folder / "into-a-file").symlink_to(folder / "a.tar/x")
    (folder / "itself").symlink_to(folder / "itself")
    os.mkfifo(folder / "pipe.tar")


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_links_that_lead_nowhere_and_pipes_are_errors_by_name(listing: Listed, tmp_path: Path) -> None:
    leads_nowhere(tmp_path)
    for _ in range(3):
        with pytest.raises(RunError, match=BROKEN_LINK) as caught:
            listing(Location.of(tmp_path))
        Path(str(caught.value).split(" is ")[0]).unlink()
        (tmp_path / "pipe.tar").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match=f"{tmp_path}/pipe is {SPECIAL}"):
        listing(Location.of(tmp_path))


def test_who_asks_is_told_what_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    leads_nowhere(tmp_path / "sub")
    passed: dict[str, str] = {}
    found = dict(sub_locations(Location.of(tmp_path), ".tar", lambda rule, name: passed.update({name: rule})))
    assert found == {"sub/a.tar": Location.of(tmp_path / "sub/a.tar")}
    links = dict.fromkeys(("sub/gone.tar", "sub/into-a-file", "sub/itself"), BROKEN_LINK)
    assert passed == {**links, "sub/pipe.tar": SPECIAL}


def test_a_link_in_place_of_a_folder_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(tmp_path / "unmounted")
    with pytest.raises(RunError, match=BROKEN_LINK):
        Location.of(tmp_path / "samples").files()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        Location.of(tmp_path / "file").files()


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    for name in ("one/a", "two/b", "elsewhere/c"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    root = tmp_path / "two"
    (root / "self").symlink_to(".")
    (root / "up").symlink_to(tmp_path)
    (root / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(root)
    (root / "again").symlink_to(root / "b")
    # The folder above is a way down as well, but not into the folder itself again.
    expected = sorted(["b", "again", "far/c", "up/one/a", "up/elsewhere/c"])
    assert sorted(Location.of(root).versions()) == expected
    assert [path for path, _ in sub_locations(Location.of(root), "")] == expected


def test_a_file_that_vanishes_while_it_is_listed_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_text("")
    partial = tmp_path / "x.partial"
    partial.write_text("")
    scandir = os.scandir

    def rename(path: str) -> Iterator[os.DirEntry[str]]:
        found = scandir(path)
        partial.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "scandir", rename)
    assert [x.name for x in Location.of(tmp_path).files()] == ["kept"]


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000  # more than one chunk
    (tmp_path / "x").write_bytes(data)
    assert Location.of(tmp_path / "x").sha256() == hashlib.sha256(data).hexdigest()


def test_replace_writes_new_files_in_new_folders_and_over_old_ones(tmp_path: Path) -> None:
    location = Location.of(tmp_path / "deep/er/file")
    location.replace(b"one")
    location.replace(pa.py_buffer(b"two"))
    assert location.read_bytes() == b"two"
    assert names(tmp_path) == ["deep", "deep/er", "deep/er/file"]


def test_create_never_overwrites(tmp_path: Path) -> None:
    location = Location.of(tmp_path / "file")
    location.create(b"one")
    with pytest.raises(UsageError, match="file exists already"):
        location.create(b"two")
    assert location.read_bytes() == b"one"


def test_a_file_is_complete_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = Location.of(tmp_path / "run.json")
    location.replace(b"old")
    seen = []
    rename = os.replace

    def watch(source: str, target: str) -> None:
        seen.append((Path(source).read_bytes(), Path(target).read_bytes(), Path(source).parent == tmp_path))
        rename(source, target)

    monkeypatch.setattr(os, "replace", watch)
    location.replace(b"new")
    assert seen == [(b"new", b"old", True)]
    assert location.read_bytes() == b"new"


def refuse_links(monkeypatch: pytest.MonkeyPatch, code: int = errno.EPERM) -> None:
    """Let this be a file system without hard links."""

    def fail(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, "link", fail)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_files_are_created_all_the_same(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch, code)
    seen = []
    rename = os.rename
    monkeypatch.setattr(
        os, "rename", lambda source, target: (seen.append(Path(source).read_bytes()), rename(source, target))
    )
    location = Location.of(tmp_path / "run.json")
    location.check_place()
    location.create(b"one")
    with pytest.raises(ExistsError, match=r"run\.json exists already"):
        location.create(b"two")
    assert (location.read_bytes(), seen[-1], names(tmp_path)) == (b"one", b"one", ["run.json"])


def test_another_error_of_a_link_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        Location.of(tmp_path / "run.json").create(b"one")
    assert names(tmp_path) == []


CREATE = """
import os, sys
from ldm_scale.errors import ExistsError
from ldm_scale.files.storage import Location

def fail(source, target):
    raise PermissionError(1, "Operation not permitted")

os.link = fail
wins = []
for number in range(200):
    try:
        Location.of(f"{sys.argv[1]}/{number}").create(sys.argv[2].encode() * 1000)
        wins.append(number)
    except ExistsError:
        pass
print(*wins)
"""


def test_without_hard_links_one_of_several_processes_succeeds(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CREATE, str(tmp_path)]
    jobs = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abc"]
    wins = {job.args[-1]: set(map(int, job.communicate()[0].split())) for job in jobs}
    assert sum(map(len, wins.values())) == 200
    assert names(tmp_path) == sorted(map(str, range(200)))
    for name, won in wins.items():
        assert all((tmp_path / str(number)).read_text() == name * 1000 for number in won)


def test_a_place_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "not/yet", "there/file"):
        Location.of(tmp_path / name).check_place()
    assert names(tmp_path) == ["there"]

    def fail(source: str, target: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UsageError, match=rf"no file can be created and renamed in {tmp_path}: .*Read-only"):
        Location.of(tmp_path / "not/yet").check_place()
    assert names(tmp_path) == ["there"]


def test_a_place_of_another_user_is_refused() -> None:
    with open_to_all() as folder, as_another_user(), pytest.raises(UsageError, match=rf"in {folder}: .*Permission"):
        Location.of(folder / "out").check_place()


@pytest.mark.parametrize("where", ["local", "local without links", "bucket"])
def test_of_many_writers_of_one_file_one_succeeds(
    where: str, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "local without links":
        refuse_links(monkeypatch)
    location = Location.of(bucket if where == "bucket" else tmp_path) / "run.json"

    def write(number: int) -> bool:
        try:
            location.create(b"%d" % number)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        wins = list(threads.map(write, range(16)))
    assert sum(wins) == 1
    assert location.read_bytes() == b"%d" % wins.index(True)
    assert [x.name for x in Location.of(location.uri.removesuffix("/run.json")).files()] == ["run.json"]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    location = Location.of(tmp_path / "run.json")
    if before is not None:
        location.replace(before)

    def fail(source: str, target: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        location.replace(b"new")
    assert names(tmp_path) == ([] if before is None else ["run.json"])
    if before is not None:
        assert location.read_bytes() == before


def test_data_that_cannot_be_written_leaves_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Location.of(tmp_path / "file").replace("text")  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_tables_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, None], "b": ["x", "y", "z"]})
    Location.of(tmp_path / "t.parquet").replace(encode_table(table))
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    assert pq.read_metadata(tmp_path / "t.parquet").row_group(0).column(0).compression == "ZSTD"


def test_a_missing_file_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Location.of(tmp_path / "nowhere").read_bytes()


def test_folders_are_copied_and_removed(tmp_path: Path) -> None:
    (tmp_path / "source/sub").mkdir(parents=True)
    (tmp_path / "source/sub/x").write_text("x")
    copy = Location.of(tmp_path / "one/two")
    copy.copy_from(pa.fs.LocalFileSystem(), str(tmp_path / "source"))
    assert (copy / "sub/x").read_text() == "x"
    copy.delete_dir()
    assert names(tmp_path / "one") == []


def test_a_bucket_is_listed_read_and_written_like_a_folder(bucket: str) -> None:
    root = Location.of(bucket) / "runs/one"
    assert (root.is_dir(), root.is_file(), root.is_empty(), root.files(recursive=True)) == (False, False, True, [])
    for name in ("b.tar", "a.tar", "c.txt", "sub/d.tar"):
        (root / name).create(name.encode())
    assert (root.is_dir(), root.is_empty(), (root / "a.tar").is_file()) == (True, False, True)
    assert [relative for relative, _ in sub_locations(root, ".tar")] == ["a.tar", "b.tar", "sub/d.tar"]
    assert [x.uri for x in root.files(".tar")] == [f"{bucket}/runs/one/a.tar", f"{bucket}/runs/one/b.tar"]
    with pytest.raises(UsageError, match=r"a\.tar exists already"):
        (root / "a.tar").create(b"two")
    (root / "a.tar").replace(b"three")
    assert (root / "a.tar").read_bytes() == b"three"


def test_a_large_object_is_uploaded_in_parts_and_has_its_bytes(bucket: str) -> None:
    data = bytes(range(256)) * (1 << 17)  # 32 MiB
    location = Location.of(bucket) / "large"
    location.create(data)
    assert (location.size(), location.sha256()) == (len(data), hashlib.sha256(data).hexdigest())


def test_tables_go_through_a_bucket(bucket: str) -> None:
    table = pa.table({"a": [1, 2, None], "b": ["x", "y", "z"]})
    location = Location.of(bucket) / "t.parquet"
    location.replace(encode_table(table))
    assert read_table(location, ["a"]).equals(table.select(["a"]))


def test_an_object_is_read_at_random(bucket: str) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    location = Location.of(bucket) / "x"
    location.create(data)
    with location.open() as file:
        assert file.seek(-10, io.SEEK_END) == len(data) - 10
        assert file.read(20) == data[-10:]
        assert file.read(1) == b""
        file.seek(777)
        assert (file.read(5), file.tell()) == (data[777:782], 782)
        assert file.read() == data[782:]
    (Location.of(bucket) / "empty").create(b"")
    assert (Location.of(bucket) / "empty").read_bytes() == b""


def test_an_object_that_changes_while_it_is_read_is_named(bucket: str) -> None:
    location = Location.of(bucket) / "x"
    location.create(b"one")
    with location.open() as file:
        assert file.read(1) == b"o"
        location.replace(b"two")
        with pytest.raises(RunError, match=rf"^{bucket}/x changed while it was read$"):
            file.read(1)


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_a_file_is_on_disk_with_its_digest(where: str, tmp_path: Path, bucket: str) -> None:
    data = bytes(range(256)) * 10_000
    location = Location.of(tmp_path if where == "local" else bucket) / "x"
    location.create(data)
    with location.on_disk() as (file, digest):
        assert (file.read(), digest) == (data, hashlib.sha256(data).hexdigest())


def test_a_folder_is_copied_into_a_bucket_and_removed(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "source/sub").mkdir(parents=True)
    (tmp_path / "source/sub/x").write_text("x")
    (tmp_path / "source/y").write_text("y")
    copy, beside = Location.of(bucket) / "one", Location.of(bucket) / "one-more"
    beside.create(b"kept")
    copy.copy_from(pa.fs.LocalFileSystem(), str(tmp_path / "source"))
    assert [(path, x.read_text()) for path, x in sub_locations(copy, "")] == [("sub/x", "x"), ("y", "y")]
    assert [x.name for x in copy.folders()] == ["sub"]
    assert set(copy.versions()) == {"sub/x", "y"}
    copy.delete_dir()
    assert (copy.is_empty(), beside.is_file()) == (True, True)
