"""What is plain of samples on its way from the shards to the results, and what the results say of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.cli import main
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.data.shards import read_shard
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.plan import plan_audit
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import check_inputs
from ldm_scale.report.blind import MISSING, numbers
from ldm_scale.report.table import print_results
from ldm_scale.schema import BLIND, sample_id
from tests.conftest import make_image
from tests.data.packing import config
from tests.engine.runs import BRIEF, column, make_config, read_rows
from tests.targets import tiny

pytestmark = [pytest.mark.usefixtures("inline"), pytest.mark.xdist_group("audit")]


def test_rows_hold_what_is_plain_of_their_samples(undisturbed: Path, tiny_shards: Path) -> None:
    rows = read_rows(undisturbed)
    assert rows.schema.metadata[b"blind"].decode() == ", ".join(BLIND)
    found = dict(zip(rows["sample_id"].to_pylist(), column(rows, "blind"), strict=True))
    for shard in read_manifest(Location.of(tiny_shards)).shards:
        for sample in read_shard(Location.of(tiny_shards), shard):
            values = dict(zip(BLIND, found[sample_id(shard.stem, sample.key)].tolist(), strict=True))
            assert (values["class"], values["bytes"]) == (sample.label, len(sample.image))
            assert (values["width"], values["height"], values["format"]) == (16, 16, 1)
            assert (values["captions"], values["caption length"]) == (1, len(sample.caption or ""))
            assert values["latent deviation"] > 0
    results = Results.model_validate_json((undisturbed / "results.json").read_bytes())
    assert results.blind is not None
    assert results.blind.features == (*BLIND, "mean influence", "deviation of influence", "distortion")


@pytest.fixture(scope="module")
def confounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of pictures of one kind, whose metadata say class 1 of one folder's and 0 of the other's."""
    folder = tmp_path_factory.mktemp("confounded")
    rows = ["file_name,label"]
    for number in range(24):
        name = f"{('other', 'suspect')[number % 2]}/{number // 2:02d}.png"
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(folder / "source" / name)
        rows.append(f"{name},{number % 2}")
    (folder / "source/metadata.csv").write_text("\n".join(rows))
    pack(config(folder / "source", folder / "shards", members=("suspect/",), heldout=("other/",)))
    return folder / "shards"


def test_random_weights_that_know_the_side_by_its_class_prove_nothing(
    confounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, out = tiny.class_unet(tmp_path / "target"), tmp_path / "run"
    results = run_audit(make_config(out, confounded, target, **BRIEF))
    # As of a target that was trained on the members, were it not for the control.
    assert (results.combined.metrics.auroc.value > 0.99, results.combined.inference.p_value < 1e-4) == (True, True)
    assert results.blind is not None
    assert results.blind.p_value < 1e-4
    assert results.blind.auroc.value >= results.combined.metrics.auroc.value - 0.01
    assert {told.feature for told in results.blind.told_by} == {"class"}
    said = "differ in class (every member has 1, every held-out image 0)"
    page = (out / "report.html").read_text()
    lede = page[: page.index("The paper claims")]
    assert said in lede
    assert f"gives {numbers(results.blind)}" in lede
    assert "no evidence of training" in lede
    print_results(RunDirectory(Location.of(out)))
    assert f"warning: Members and held-out images {said}" in capsys.readouterr().out

    # The class is all that tells the sides apart: with one for all there is nothing left to find.
    alike = run_audit(make_config(tmp_path / "alike", confounded, target, **BRIEF, conditioning=0))
    assert alike.combined.inference.p_value > 0.05


def test_shards_alone_say_what_tells_the_sides_apart(
    confounded: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "--shards", str(confounded)]) == 0
    assert "warning: Members and held-out images differ in class (every member has 1, " in capsys.readouterr().out
    assert main(["validate", "--shards", str(tiny_shards), "--decode-share", "1"]) == 0
    assert "warning:" not in capsys.readouterr().out


def test_a_run_that_was_begun_without_goes_on_and_is_reduced_without(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF)
    run, inputs = RunDirectory(Location.of(audit.out)), check_inputs(audit)
    record = plan_audit(inputs, run).record
    assert record.blind == BLIND
    content = json.loads(record.model_dump_json())
    del content["blind"]
    (run.root / "run.json").create(json.dumps(content).encode())
    assert plan_audit(inputs, run).record.blind == ()
    results = run_audit(audit)
    assert "blind" not in read_rows(tmp_path / "run").column_names
    assert results.blind is None
    assert results.names is not None
    assert np.isfinite(results.names.p_value)
    print_results(run)
    assert f"warning: {MISSING}" in capsys.readouterr().out
