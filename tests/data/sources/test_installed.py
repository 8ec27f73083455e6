"""Sources that other packages install."""

from pathlib import Path

import pytest

from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_folder

THIRD_PARTY = """
from ldm_scale.data.sources.items import Item, key_of, list_files


def read(folder):
    listing = list_files(folder)
    for path in sorted(listing.left):
        if path.endswith(".png"):
            listing.items.append(Item(key_of(path), listing.take(path), captions=("by someone",)))
    listing.skip_rest("no picture")
    return listing
"""


@pytest.fixture(autouse=True)
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of someone else's, with a kind of source, and one that is not there."""
    info = tmp_path / "site" / "archive-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: archive\nVersion: 1.0\n")
    points = "archive = someones_archive:read\nlost = someones_archive:no_such"
    (info / "entry_points.txt").write_text(f"[ldm_scale.sources]\n{points}\n")
    (tmp_path / "site" / "someones_archive.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path / "site")


def packed(dataset: str, tmp_path: Path) -> int:
    source = make_folder(tmp_path / "source", 6)
    out = str(tmp_path / "out")
    pack(PackConfig(dataset=dataset, source=str(source), out=out, near_duplicates=0))
    return read_manifest(Location.of(out)).samples


def test_a_third_partys_source_is_packed_by_its_name(tmp_path: Path) -> None:
    assert packed("archive", tmp_path) == 6


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("archiv", r"did you mean 'archive'"),
        (
            "lost",
            r"^entry point lost of ldm_scale\.sources \(archive 1\.0\) cannot be loaded from someones_archive:no_such",
        ),
    ],
)
def test_a_source_that_is_not_there_is_named(dataset: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        packed(dataset, tmp_path)
