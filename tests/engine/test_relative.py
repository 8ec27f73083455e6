"""Scores relative to a reference model: from rows to results, and the audit of the reference itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from safetensors.torch import load_file, save_file

from ldm_scale.analysis.results import Relative, Results
from ldm_scale.analysis.suspects import Suspects
from ldm_scale.cli import main
from ldm_scale.data.manifest import Manifest, read_manifest, write_manifest
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.relative import relate_run
from ldm_scale.engine.rows import read_index
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.schema import REJECT
from tests.engine.runs import BRIEF, make_config
from tests.notebook.runs import MADE_UP, write_rows

pytestmark = [pytest.mark.usefixtures("inline"), pytest.mark.xdist_group("audit")]


def relative_of(folder: Path) -> Relative:
    run = RunDirectory(Location.of(folder))
    found = relate_run(run, ray.put(read_index(run)), MADE_UP.analysis)
    assert found is not None
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A run whose members' statistics by sima are 0.7 of what they are by its reference, and by pfami the same."""
    write_rows(tmp_path / "run", leak=0.7)
    write_rows(tmp_path / "run" / "reference")
    # Its own results say that it is finished.
    (tmp_path / "run" / "reference" / "results.json").touch()
    return tmp_path / "run"


def test_a_reference_that_is_not_finished_is_none(pair: Path) -> None:
    (pair / "reference" / "results.json").unlink()
    run = RunDirectory(Location.of(pair))
    assert relate_run(run, ray.put(read_index(run)), MADE_UP.analysis) is None


def test_a_factor_of_the_members_statistics_is_found_whatever_their_size(pair: Path) -> None:
    found = relative_of(pair)
    assert (found.members, found.heldout, found.left_out) == (200, 200, 0)
    sima, pfami = found.rows
    assert (sima.attack, sima.heldout_choice.metrics.auroc.value, pfami.attack) == ("sima", 1.0, "pfami")
    assert (sima.members_lower, sima.heldout_lower) == (1, 0)
    # The other attack's rows are the same in both: nothing is left of them.
    assert (pfami.heldout_choice.metrics.auroc.value, pfami.heldout_choice.timestep) == (0.5, None)
    assert (pfami.members_lower, pfami.heldout_lower) == (0, 0)


def test_samples_without_a_row_in_both_are_left_out_and_counted(pair: Path) -> None:
    reference = RunDirectory(Location.of(pair / "reference"))
    part = sorted((pair / "reference" / "samples").iterdir())[0]
    rows = pq.read_table(part)
    pq.write_table(rows[5:], part)
    gone = [{"sample_id": one, "stage": "condition", "reason": "no class"} for one in rows["sample_id"][:5].to_pylist()]
    schema = REJECT.with_metadata(reference.read_record().schema.metadata)
    reference.commit(rows[:0], pa.Table.from_pylist(gone, schema=schema))
    found = relative_of(pair)
    assert (found.members + found.heldout, found.left_out) == (395, 5)
    assert found.rows[0].heldout_choice.metrics.auroc.value == 1


def test_a_run_of_other_draws_is_no_reference(pair: Path) -> None:
    path = pair / "reference" / "run.json"
    record = json.loads(path.read_text())
    record["science"]["seed"] = 7
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"is no audit of a reference for .*: seed was null, is now 7"):
        relative_of(pair)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_target: Path) -> Path:
    """The tiny target after a step of training, as it were: every weight of the denoiser is another."""
    folder = Path(shutil.copytree(tiny_target, tmp_path_factory.mktemp("tuned") / "target"))
    (file,) = (folder / "unet").glob("*.safetensors")
    save_file({name: 1.01 * weight for name, weight in load_file(file).items()}, file, {"format": "pt"})
    return folder


def test_a_reference_is_audited_beside_a_finished_run_and_changes_no_row_of_it(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, tuned: Path
) -> None:
    config = make_config(tmp_path / "run", tiny_shards, tuned, **BRIEF, limit=8)
    plain = run_audit(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run/samples").iterdir()}
    found = run_audit(config.model_copy(update={"reference": str(tiny_target)}))
    assert {path: path.read_bytes() for path in (tmp_path / "run/samples").iterdir()} == before
    assert plain.relative is None
    assert found.relative is not None
    assert found.model_copy(update={"relative": None}) == plain
    reference = RunDirectory(Location.of(tmp_path / "run")).reference()
    record, alone = reference.read_record(), Results.model_validate_json((reference.root / "results.json").read_bytes())
    assert (found.relative.fingerprint, found.relative.target) == (record.fingerprint, alone.inputs["target"])
    assert found.relative.rows[0].reference.value == alone.headline[0].heldout_choice.metrics.auroc.value
    with pytest.raises(UsageError, match="the content of target has changed"):
        run_audit(config.model_copy(update={"reference": str(tuned)}))


def test_relative_to_itself_a_target_scores_exactly_nothing(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    found = run_audit(
        make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF, limit=4, reference=str(tiny_target))
    ).relative
    assert found is not None
    (row,) = found.rows
    assert (row.heldout_choice.metrics.auroc.value, row.members_lower, row.heldout_lower) == (0.5, 0, 0)


def test_a_reference_of_other_latents_or_noise_is_refused_before_the_run(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    other = Path(shutil.copytree(tiny_target, tmp_path / "other"))
    schedule = other / "scheduler" / "scheduler_config.json"
    content = json.loads(schedule.read_text())

    def refused(message: str, **changes: object) -> None:
        schedule.write_text(json.dumps(content | changes))
        with pytest.raises(UsageError, match=message):
            run_audit(make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF, reference=str(other)))

    refused("reference: its noise schedule is another than the target's: alpha_bar at timestep", beta_end=0.03)
    refused("reference: its training timesteps are 500, the target's 1000", num_train_timesteps=500)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def members_only(tmp_path: Path, tiny_shards: Path) -> Path:
    """The members' shards alone."""
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "members only"))
    manifest = read_manifest(Location.of(shards))
    ours = tuple(shard for shard in manifest.shards if shard.side == "members")
    (shards / "manifest.json").unlink()
    write_manifest(Location.of(shards), Manifest(shards=ours, split_sha256="0" * 64))
    shutil.rmtree(shards / "heldout")
    return shards


def test_members_alone_are_audited_beside_a_reference_and_refused_without(
    tmp_path: Path,
    members_only: Path,
    tiny_shards: Path,
    tiny_target: Path,
    tuned: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By their shards, or by a split file."""
    out = tmp_path / "run"
    suspects = [f"{'cat' if number % 2 else 'dog'}/{number:03d}" for number in range(12)]
    (tmp_path / "split.json").write_text(json.dumps({"members": suspects, "heldout": []}))
    listed = ["--shards", str(tiny_shards), "--split", str(tmp_path / "split.json")]
    words = ["audit", "--target", tuned, "--out", out, "--compute.device", "cpu"]
    words += ["--attacks", "sima,pia", "--attacks.sima.timesteps", "0,50", "--masks.bins", "5", "--json"]
    plain = [*map(str, words), "--attacks.pia.timesteps", "50", "--geometry.influence", "exact"]
    for trial in (listed, ["--shards", str(members_only)], ["--shards", str(members_only), "--dry-run"]):
        assert main([*plain, *trial]) == 2
        assert "there are no held-out samples to compare members with" in capsys.readouterr().err
    assert not out.exists()
    assert main([*plain, *listed, "--reference", str(tiny_target)]) == 0
    found = Suspects.model_validate_json((out / "suspects.json").read_bytes())
    assert json.loads(capsys.readouterr().out) == json.loads(found.model_dump_json())
    assert (found.suspects, found.left_out, [row.attack for row in found.rows]) == (12, 0, ["sima", "pia"])
    # Each suspect's score by another way: from the rows of both.
    tables = [
        pa.concat_tables([pq.read_table(part) for part in sorted((folder / "samples").iterdir())]).sort_by("sample_id")
        for folder in (out, out / "reference")
    ]
    logs = [np.log(np.array(table["sima"].to_pylist()).reshape(12, 2, 5).sum(axis=2)) for table in tables]
    scores = (logs[1] - logs[0]).mean(axis=1)
    written = pq.read_table(out / "suspects.parquet")
    assert written["sample_id"].to_pylist() == tables[0]["sample_id"].to_pylist()
    np.testing.assert_allclose(written["sima"], scores, atol=1e-5)
    assert found.rows[0].lower == (scores > 0).sum()
    assert found.highest[0].sample_id == written["sample_id"][int(scores.argmax())].as_py()
    page = (out / "report.html").read_text()
    assert "no p-value of membership" in page
    assert found.highest[0].sample_id in page
    assert main(["status", str(out)]) == 0
    assert "suspects.json: written" in capsys.readouterr().out
