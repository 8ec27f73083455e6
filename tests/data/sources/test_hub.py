"""Sources on a hub, here one of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import Manifest, read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.conftest import make_folder
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
