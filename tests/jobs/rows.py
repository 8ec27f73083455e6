"""The paper's six rows: for each a small source in the official layout, packed, and a tiny target of its kind."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.cli import main
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.data.sources import official, test_cifar10, test_imagenet
from tests.inline import inline_ray
from tests.targets import tiny


@dataclass(frozen=True)
class Row:
    """One row of the paper: how its source is made and packed, its target, and what its recipe must resolve to."""

    pack: str
    source: Callable[[Path], Any]
    target: Callable[[Path], Path]
    timesteps: int
    images: dict[str, Any]


ROWS = {
    "cifar10": Row("cifar10", test_cifar10.write_binary, tiny.unconditional, 30, {"crop": None}),
    "celeba": Row("celeba", official.celeba_original, tiny.unconditional, 30, {"crop": 140, "filter": "bilinear"}),
    "imagenet": Row("imagenet", test_imagenet.write_tar, tiny.class_unet, 30, {"crop": None, "filter": "bicubic"}),
    "pokemon": Row("parquet", official.pokemon, tiny.stable_diffusion, 20, {"crop": None, "filter": "bilinear"}),
    "coco": Row("coco", official.coco, tiny.stable_diffusion, 20, {"crop": None, "filter": "bilinear"}),
    "flickr": Row("flickr30k", official.flickr_token, tiny.stable_diffusion, 20, {"crop": None, "filter": "bilinear"}),
}

# The one whose job is submitted to a cluster.
SUBMITTED = "imagenet"
# Flags of an analysis that takes no time.
SAVING = ("--analysis.repeats", "2", "--analysis.bootstrap", "50")


def make_place(root: Path, names: Iterable[str]) -> Path:
    """What LDM_SCALE_ROOT names: shards/DATASET and targets/DATASET of some rows."""
    (root / "sources").mkdir()
    with inline_ray(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(official, "COUNT", 16)
        for name in names:
            row = ROWS[name]
            row.source(root / "sources" / name)
            arguments = ["pack", row.pack, str(root / "sources" / name), str(root / "shards" / name)]
            assert main(arguments) == 0
            row.target(root / "targets" / name)
    return root


def check_row(name: str, place: Path, **timesteps: int) -> None:
    """The row's run is whole, and what its recipe says; but for so many timesteps of some attacks."""
    run = place / "runs" / name
    manifest = json.loads((place / "shards" / name / "manifest.json").read_text())
    results = Results.model_validate_json((run / "results.json").read_bytes())
    assert results.members + results.heldout == sum(shard["samples"] for shard in manifest["shards"]) > 10
    assert {row.attack for row in results.headline} == {"sima", "loss", "pia", "secmi"}
    record = RunDirectory(Location.of(run)).read_record()
    expected = dict.fromkeys(("sima", "loss", "pia", "secmi"), ROWS[name].timesteps) | timesteps
    assert {name: len(steps) for name, steps in record.timesteps.items()} == expected
    assert ROWS[name].images.items() <= record.config.images.model_dump().items()
    assert 'class="departures"' not in (run / "report.html").read_text()
    assert (record.preset, record.departures) == (None, ())
