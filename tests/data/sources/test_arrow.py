"""Data sets saved to disk by Hugging Face's `datasets`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.data.sources.arrow import read_arrow
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.data.packing import config, keys, packed
from tests.data.sources.official import caption, odd_jpeg
from tests.data.sources.saved import save_dict, save_to_disk

KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}


def table(*numbers: int) -> pa.Table:
    images = pa.array([{"bytes": odd_jpeg(n), "path": None} for n in numbers], KIND)
    columns = {"image": images, "text": [caption(n) for n in numbers], "label": [n % 2 for n in numbers]}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(FEATURES)})


def test_a_saved_data_set_is_packed(tmp_path: Path) -> None:
    """Files come as state.json names them; what lies beside them is counted."""
    source = save_to_disk(tmp_path / "source", [table(0, 1, 2), table(3, 4)])
    (source / "cache-1.arrow").write_bytes(b"left over")
    listing = read_arrow(Location.of(source))
    expected = [f"data-00000-of-00002-{n:06d}" for n in range(3)] + [f"data-00001-of-00002-{n:06d}" for n in range(2)]
    assert [(item.key, item.captions, item.label) for item in listing.items] == [
        (key, (caption(n),), n % 2) for n, key in enumerate(expected)
    ]
    assert [item.location.size() for item in listing.items] == [len(odd_jpeg(n)) for n in range(5)]
    assert (listing.classes, listing.doubt) == (("cat", "dog"), "")
    # Two data files, state and description are read; five images.
    assert (listing.seen, listing.read, sum(count for count, _ in listing.skipped.values())) == (10, 4, 1)
    pack(config(source, tmp_path / "out", dataset="arrow"))
    sides = packed(tmp_path / "out")
    samples = sides["members"] | sides["heldout"]
    assert {key: sample.image for key, sample in samples.items()} == {
        key: odd_jpeg(n) for n, key in enumerate(expected)
    }
    assert read_manifest(Location.of(tmp_path / "out")).classes == ("cat", "dog")


def test_splits_are_numbered_train_before_test(tmp_path: Path) -> None:
    source = save_dict(tmp_path / "source", {"test": [table(0, 1)], "train": [table(2), table(3, 4)]})
    np.savez(tmp_path / "split.npz", mia_train_idxs=[0, 2], mia_eval_idxs=[3])
    pack(config(source, tmp_path / "out", dataset="arrow", split=str(tmp_path / "split.npz")))
    members = ["train/data-00000-of-00002-000000", "train/data-00001-of-00002-000001"]
    assert keys(tmp_path / "out") == (members, ["test/data-00000-of-00001-000000"])
    assert "image 0 is train/data-00000-of-00002-000000 (train/data-00000-of-00002.arrow row 0)" in (
        read_manifest(Location.of(tmp_path / "out")).split
    )


def test_more_than_nine_files_come_in_the_order_of_the_state(tmp_path: Path) -> None:
    source = save_to_disk(tmp_path / "source", [table(n) for n in range(3)])
    state = json.loads((source / "state.json").read_text())
    for number, name in enumerate(("x-10", "x-9", "x-1")):
        (source / state["_data_files"][number]["filename"]).rename(source / f"{name}.arrow")
    state["_data_files"] = [{"filename": f"{name}.arrow"} for name in ("x-10", "x-9", "x-1")]
    (source / "state.json").write_text(json.dumps(state))
    listing = read_arrow(Location.of(source))
    assert [item.key for item in listing.items] == ["x-10-000000", "x-9-000000", "x-1-000000"]
    assert listing.doubt == ""


@pytest.mark.parametrize("name", ["_indices_files", "_indices_data_files"])
def test_rows_chosen_by_an_indices_file_are_refused(tmp_path: Path, name: str) -> None:
    source = save_to_disk(tmp_path / "source", [table(0, 1)])
    state = json.loads((source / "state.json").read_text())
    (source / "state.json").write_text(json.dumps(state | {name: []}))
    assert len(read_arrow(Location.of(source)).items) == 2
    (source / "state.json").write_text(json.dumps(state | {name: [{"filename": "indices.arrow"}]}))
    with pytest.raises(UsageError, match=r"state\.json chooses rows by a file of numbers.*flatten_indices"):
        read_arrow(Location.of(source))


@pytest.mark.parametrize("damage", ["batch", "mark", "more", "head"])
def test_a_file_that_is_cut_or_goes_on_is_named(tmp_path: Path, damage: str) -> None:
    """A stream cut between two batches, or before its end mark, reads without any error."""
    source = save_to_disk(tmp_path / "source", [table(0, 1, 2, 3)])
    file = source / "data-00000-of-00001.arrow"
    data = file.read_bytes()
    with pa.ipc.open_stream(data[:-8]) as reader, pa.BufferReader(data) as stream:
        pa.ipc.read_schema(stream)
        pa.ipc.read_message(stream)
        cut = stream.tell()
        assert len(list(reader)) == 2
    file.write_bytes({"batch": data[:cut], "mark": data[:-8], "more": data + data, "head": data[:20]}[damage])
    with pytest.raises(UsageError, match=r"data-00000-of-00001\.arrow is no complete Arrow file"):
        read_arrow(Location.of(source))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    source = save_to_disk(tmp_path / "source", [table(0), table(1)])
    (source / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UsageError, match=r"data-00001-of-00002\.arrow is named in state\.json"):
        read_arrow(Location.of(source))
    (source / "state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"state\.json is no state of save_to_disk"):
        read_arrow(Location.of(source))
    (source / "state.json").unlink()
    with pytest.raises(UsageError, match=r"holds no state\.json"):
        read_arrow(Location.of(source))


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = save_dict(tmp_path / "source", {"train": [table(0)], "test": [table(1)]})
    shutil.rmtree(source / "train")
    with pytest.raises(UsageError, match=r"dataset_dict\.json names the split 'train', whose state\.json is not there"):
        read_arrow(Location.of(source))
    (source / "dataset_dict.json").write_text("[]")
    with pytest.raises(UsageError, match=r"dataset_dict\.json is no list of the splits"):
        read_arrow(Location.of(source))
