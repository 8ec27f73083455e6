"""Tars that go on after their end mark, or have gaps: an error by name for every reader of tars."""

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.data.sources.tars import tarred_files
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.storage import Location
from tests.data.readers import READERS
from tests.shards import tar

BLOCK, RECORD = 512, 10240
FILES = [(f"{number}.jpg", b"\xff" * 700) for number in range(20)]
# Header and content of a file.
EACH = 3 * BLOCK
WHOLE = tar(FILES)
ENTRIES = WHOLE[: len(FILES) * EACH]


def zeroed(first: int, last: int) -> bytes:
    """The tar with zeros from one byte to another, as a download in pieces leaves it."""
    return WHOLE[:first] + bytes(last - first) + WHOLE[last:]


GAPS = {
    "two tars": (WHOLE * 2, f"byte {len(ENTRIES)} .* byte {len(WHOLE)}:"),
    "rest of a page": (WHOLE + b"</html>", f"byte {len(ENTRIES)} .* byte {len(WHOLE)}:"),
    "one byte in the end mark": (ENTRIES + bytes(600) + b"\1" + bytes(423), f"byte {len(ENTRIES) + 600}:"),
    "more without padding": (ENTRIES + bytes(BLOCK) + ENTRIES + bytes(2 * BLOCK), f"byte {len(ENTRIES) + BLOCK}:"),
    "a header": (zeroed(3 * EACH, 3 * EACH + BLOCK), f"byte {3 * EACH} .* byte {3 * EACH + BLOCK}:"),
    "files": (zeroed(3 * EACH, 7 * EACH), f"byte {3 * EACH} .* byte {7 * EACH}:"),
    "the middle of files": (zeroed(3 * EACH - 99, 7 * EACH + 600), f"byte {3 * EACH} .* byte {7 * EACH + 600}:"),
    "the first files": (zeroed(0, 2 * EACH), f"byte 0 .* byte {2 * EACH}:"),
    "all but the first files": (zeroed(2 * EACH, len(WHOLE)), f"from byte {2 * EACH} to its end at byte {len(WHOLE)}"),
    "all but the last piece": (zeroed(EACH, len(WHOLE))[:-100], f"from byte {EACH} to its end"),
}
CUT = {
    "before the end mark": ENTRIES,
    "in a file": ENTRIES[:-100],
    "in a header": ENTRIES[: -EACH + 100],
    "between two files": ENTRIES[:-EACH],
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("data", "place"), GAPS.values(), ids=GAPS)
def test_more_than_zeros_after_the_end_mark_and_gaps_are_errors_that_name_the_byte(
    data: bytes, place: str, reader: Callable[[Path, int], object], tmp_path: Path
) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises((tarfile.ReadError, RunError, UsageError), match=place) as caught:
        reader(tmp_path / "a.tar", len(FILES))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_a_tar_without_its_end_mark_is_an_error(
    data: bytes, reader: Callable[[Path, int], object], tmp_path: Path
) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises((tarfile.ReadError, RunError, UsageError)):
        reader(tmp_path / "a.tar", len(FILES))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("record", [BLOCK, 1024, RECORD, 64 << 10, 1 << 20])
def test_a_tar_may_be_filled_up_to_records_of_any_size(
    record: int, reader: Callable[[Path, int], object], tmp_path: Path
) -> None:
    size = len(ENTRIES) + 2 * BLOCK
    (tmp_path / "a.tar").write_bytes(ENTRIES + bytes(2 * BLOCK) + bytes(-size % record))
    reader(tmp_path / "a.tar", len(FILES))


def test_a_gap_in_a_tar_inside_of_a_tar_is_an_error(tmp_path: Path) -> None:
    def listed(inner: bytes) -> list[str]:
        (tmp_path / "a.tar").write_bytes(tar([("n1.tar", inner), ("n2.tar", WHOLE)]))
        return [file.name for file in tarred_files(Location.of(tmp_path / "a.tar"), nested=True)]

    assert listed(WHOLE) == [f"{folder}/{name}" for folder in ("n1", "n2") for name, _ in FILES]
    for data, place in GAPS.values():
        with pytest.raises(UsageError, match=place):
            listed(data)


def test_files_are_found_where_they_lie(tmp_path: Path) -> None:
    content = [(f"{number}.jpg", bytes([number]) * (number * 100)) for number in range(1, 20)]
    (tmp_path / "a.tar").write_bytes(tar([("n.tar", tar(content)), ("m.tar", tar([("last.txt", b"end")]))]))
    found = tarred_files(Location.of(tmp_path / "a.tar"), nested=True, keep={"txt": 100})
    assert {file.name: file.read_bytes() for file in found} == {
        **{f"n/{name}": data for name, data in content},
        "m/last.txt": b"end",
    }


def test_validate_writes_no_manifest_of_half_a_tar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inline: None
) -> None:
    (tmp_path / "a.tar").write_bytes(WHOLE * 2)
    assert main(["validate", "--shards", str(tmp_path), "--decode-share", "0", "--write-manifest"]) == 1
    assert re.search(rf"problem: cannot be read: .* byte {len(WHOLE)}.*{tmp_path}/a\.tar", capsys.readouterr().out)
    assert not (tmp_path / "manifest.json").exists()


def test_pack_refuses_half_a_tar(tmp_path: Path, capsys: pytest.CaptureFixture[str], inline: None) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.tar").write_bytes(WHOLE * 2)
    assert main(["pack", "webdataset", str(tmp_path / "source"), str(tmp_path / "out")]) == 2
    assert re.search(rf"{tmp_path}/source/a\.tar .* byte {len(WHOLE)}:", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
