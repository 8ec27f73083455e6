"""Sources on a hub or in a bucket, here ones of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import Manifest, read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from ldm_scale.targets.fetch import CACHE
from tests.conftest import make_folder
from tests.data import bucket
from tests.targets.hub import NAME, Hub, serve

COMMIT = "1" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    make_folder(tmp_path / "repository/birds", 6)
    (tmp_path / "repository/load.py").write_text("raise SystemExit('run')")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serve(Hub({"refs/convert/parquet": COMMIT}, {COMMIT: tmp_path / "repository"}, datasets=True)) as served:
        # Read from HF_ENDPOINT when the library is imported, which is before any test.
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield served


def packed(source: object, out: Path) -> Manifest:
    pack(PackConfig(dataset="folder", source=str(source), out=str(out), near_duplicates=0))
    return read_manifest(Location.of(out))


def test_a_folder_of_a_data_set_is_packed_as_if_it_lay_here(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = packed(f"hf://datasets/{NAME}@{COMMIT}/birds", tmp_path / "out")
    assert found.shards == packed(tmp_path / "repository/birds", tmp_path / "local").shards
    assert f"commit {COMMIT}" in capsys.readouterr().out
    assert "load.py" not in hub.sent
    assert not any(name.endswith(".py") for name in hub.sent)


def test_a_revision_may_have_any_name(hub: Hub, tmp_path: Path) -> None:
    assert packed(f"hf://datasets/{NAME}@refs%2Fconvert%2Fparquet/birds/", tmp_path / "out").samples == 6


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"hf://{NAME}", r"is no address such as hf://datasets/"),
        ("hf://datasets/someone/else", r"^data set someone/else is no local path, and the hub does not give it"),
        (f"hf://datasets/{NAME}@{COMMIT}/fish", r"^source folder .*fish does not exist$"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        packed(address, tmp_path / "out")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of six pictures that is `birds/` in the bucket."""
    make_folder(tmp_path / "bucket/birds", 6)
    (tmp_path / "bucket/birdseed.txt").write_text("beside it")
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    with bucket.serve(tmp_path / "bucket") as address:
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        yield tmp_path / "bucket/birds"


def test_a_folder_of_a_bucket_is_packed_as_if_it_lay_here(pictures: Path, tmp_path: Path) -> None:
    found = packed(f"gs://anonymous@{bucket.NAME}/birds/", tmp_path / "out")
    assert found.shards == packed(pictures, tmp_path / "local").shards
    copied = {path.name for path in (tmp_path / "cache").rglob("*.png")}
    assert copied == {path.name for path in pictures.rglob("*.png")}
    assert not [*(tmp_path / "cache").rglob("birdseed.txt")]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("gs://", "^gs:// is no address such as gs://bucket/folder$"),
        (f"gs://anonymous@{bucket.NAME}/fish", r"^data set gs://.*/fish does not exist"),
        ("gs://anonymous@nobodys-bucket/birds", r"^data set gs://anonymous@nobodys-bucket/birds does not exist"),
        (f"gs://anonymous@{bucket.CLOSED}/birds", r"^data set gs://.* cannot be read: access denied"),
        (f"gs://{bucket.NAME}/birds", r"^data set gs://.* cannot be read: .*GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_what_a_bucket_does_not_give_is_named(
    tmp_path: Path, address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match=said):
        packed(address, tmp_path / "out")
    assert not (tmp_path / "out").exists()
