"""Packing on Ray: the same shards as one process writes, and errors as they are."""

from pathlib import Path
from typing import Any

import pytest

from ldm_scale.cli import main
from ldm_scale.data.pack import pack
from ldm_scale.data.sources import SOURCES
from ldm_scale.data.sources.folder import read_folder
from ldm_scale.data.sources.items import Listing
from ldm_scale.engine.pack import run_pack
from ldm_scale.files.storage import Location, sub_locations
from tests.conftest import make_folder
from tests.data.packing import config, tree


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_writes_what_one_process_writes(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 40)
    (source / "broken.png").write_bytes(b"<html>")
    changes = {"near_duplicates": 0.94, "size": 8, "shard_samples": 3, "max_reject_fraction": 0.1}
    assert run_pack(config(source, tmp_path / "many", **changes)) == pack(config(source, tmp_path / "one", **changes))
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


@pytest.mark.usefixtures("inline")
def test_from_a_bucket_to_a_bucket(tmp_path: Path, bucket: str) -> None:
    source = make_folder(tmp_path / "source", 12)
    for name, location in list(sub_locations(Location.of(source), "")):
        (Location.of(bucket) / "source" / name).replace(location.read_bytes())
    local = pack(config(source, tmp_path / "out", near_duplicates=0.94, shard_samples=4))
    there = {"source": f"{bucket}/source", "out": f"{bucket}/out"}
    assert run_pack(config(source, tmp_path, near_duplicates=0.94, shard_samples=4).model_copy(update=there)) == local
    written = dict(sub_locations(Location.of(f"{bucket}/out"), ""))
    assert {name: found.read_bytes() for name, found in written.items()} == tree(tmp_path / "out")


@pytest.mark.usefixtures("inline")
def test_a_file_that_cannot_be_read_fails_by_name_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_folder(tmp_path / "source", 8)
    whole = pack(config(source, tmp_path / "whole", shard_samples=2))
    victim = source / "dog/004.png"
    data = victim.read_bytes()

    def read_then_lose(folder: Location, **sides: Any) -> Listing:
        listing = read_folder(folder, **sides)
        victim.unlink()
        return listing

    monkeypatch.setitem(SOURCES, "folder", read_then_lose)
    command = ["pack", "folder", str(source), str(tmp_path / "out"), "--near-duplicates", "0", "--shard-samples", "2"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"ldm-scale: error: {victim} was listed but cannot be read: ")
    assert len(error.splitlines()) == 1
    monkeypatch.undo()
    victim.write_bytes(data)
    assert main(command) == 0
    assert f"{tmp_path / 'out'}: {whole.samples} samples in 4 shards; random halves" in capsys.readouterr().out
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
