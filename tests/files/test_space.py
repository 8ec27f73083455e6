"""A full disk: which one, how much is left of it and what to do, in one line, and nothing half written."""

import errno
import io
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldm_scale.errors import RunError
from ldm_scale.files.space import check_room, room_at
from ldm_scale.files.storage import Location
from tests.faults import Fault, proxied

LINE = r"^{path} cannot be written: the file system {mount} has [0-9,]+ bytes( and [0-9,]+ files)? left; free some"


def test_a_device_without_room_is_named_with_what_is_left() -> None:
    told = LINE.format(path="/dev/full", mount="/.*")
    with pytest.raises(RunError, match=told), room_at("/dev/full", "or wait"):
        Path("/dev/full").write_bytes(b"x")


def test_another_error_is_left_as_it_is() -> None:
    with pytest.raises(PermissionError), room_at("/x", ""):
        raise PermissionError(errno.EPERM, "no")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_inodes_and_quotas_are_told_as_well(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(f_bavail=7, f_frsize=4096, f_favail=0, f_files=1000)
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    with pytest.raises(RunError, match="has 28,672 bytes and 0 files left"), room_at(str(tmp_path / "a/b"), "x"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(("write", "step"), [("create", "fsync"), ("create", "link"), ("replace", "fsync")])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, write: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    location = Location.of(tmp_path / "samples/part.parquet")
    with pytest.raises(RunError, match=LINE.format(path=location, mount="/.*")) as caught:
        getattr(location, write)(b"rows")
    assert str(caught.value).endswith("then the same command again goes on where this one stopped")
    assert os.listdir(tmp_path / "samples") == []


class FullFile(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_tmpdir_is_named_with_its_variable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    location = Location.of(bucket) / "x"
    location.create(b"shard" * 10_000)
    monkeypatch.setattr(tempfile, "TemporaryFile", FullFile)
    with pytest.raises(RunError, match=r"or set TMPDIR to a folder with more$") as caught, location.on_disk():
        pass
    assert str(caught.value).startswith(f"{tempfile.gettempdir()} cannot be written: the file system /")


def test_what_is_declared_too_large_is_not_fetched(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    location = Location.of(bucket) / "x"
    location.create(b"shard" * 10_000)
    status = SimpleNamespace(f_bavail=1, f_frsize=4096, f_favail=1, f_files=1)
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    with pytest.raises(RunError, match=r"has no room for 50,000 bytes: .* has 4,096 bytes"), location.on_disk():
        pass
    check_room("/", 4096, "")
    with pytest.raises(RunError, match=r"has no room for 4,096 bytes in 2 files: .* and 1 files left; free some"):
        check_room("/", 4096, "", 2)


def test_a_length_that_no_disk_has_is_no_traceback(bucket: str) -> None:
    location = Location.of(bucket) / "x"
    location.create(b"x")
    with (
        proxied(Fault("huge", key="/x")),
        pytest.raises(RunError, match=r"no room for 9,223,372,036,854,775,807 bytes"),
    ):
        location.on_disk().__enter__()
