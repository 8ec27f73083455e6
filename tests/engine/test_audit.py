"""The audit on a real local Ray: the same rows whatever the order and width, resume, rejects, refusals."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import MANIFEST, read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.data.split import Split
from ldm_scale.engine.actor import load_auditor
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.plan import plan_audit
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import check_inputs
from ldm_scale.schema import REJECT, split_id
from tests.addresses import upload
from tests.conftest import BROKEN, make_folder
from tests.engine.runs import ATTACKS, BRIEF, assert_same_rows, column, make_config, read_rows
from tests.targets import tiny
from tests.targets.loras import diffusers_file, make_weights

# One process, for one run that most of both read.
pytestmark = [pytest.mark.usefixtures("inline"), pytest.mark.xdist_group("audit")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "^precision float16 works on cuda only"),
        ({"compute": {"compile": "graphs"}}, r"^compute\.compile graphs works on cuda only"),
        ({"geometry": {"precision": "tf32"}}, r"^geometry\.precision tf32 works on cuda only"),
    ],
)
def test_what_the_device_cannot_do_is_refused_before_a_run_begins(
    changes: dict[str, object], message: str, tiny_target: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run_audit(make_config(tmp_path / "out", tiny_shards, tiny_target, **changes))
    assert not (tmp_path / "out").exists()


def test_a_run_directory_holds_everything(undisturbed: Path) -> None:
    rows = read_rows(undisturbed)
    assert len(set(rows["sample_id"].to_pylist())) == len(rows) == 48
    assert sum(rows["member"].to_pylist()) == 24
    record = RunDirectory(Location.of(undisturbed)).read_record()
    assert (record.members, record.heldout, record.latent_shape) == (24, 24, (4, 4, 4))
    assert rows.schema.metadata[b"fingerprint"].decode() == record.fingerprint
    results = Results.model_validate_json((undisturbed / "results.json").read_bytes())
    assert (results.members, results.heldout, results.rejected) == (24, 24, {})
    measured = np.isfinite(column(rows, "distortion").astype(float))
    assert results.distortion_measured == sum(measured)
    assert results.distortion_estimate is not None
    assert results.distortion_estimate.samples == sum(~measured) > 0
    halves = [group for group in results.by_distortion if group.attack == "sima" and group.groups == 2]
    assert sum(half.members + half.heldout for half in halves if half.row == "plain") == 48
    assert pq.read_table(undisturbed / "ranking.parquet").num_rows == 64
    assert pq.read_table(undisturbed / "metrics.parquet").num_rows == 4 * 5 * (6 * 2 + 1)  # PFAMI is averaged
    assert (undisturbed / "report.html").stat().st_size > 10_000
    assert {row.attack for row in results.headline} == set(ATTACKS)
    assert {row.heldout_choice.timestep for row in results.headline if row.attack == "pfami"} == {None}


def test_the_calibration_set_is_a_draw_of_the_samples_own_estimates(undisturbed: Path) -> None:
    """Mean influences of about 12 of 48 samples, near those of all rows, and the order of the global mask."""
    record = RunDirectory(Location.of(undisturbed)).read_calibration()
    assert record is not None
    assert 2 <= record.samples < 30
    means = column(read_rows(undisturbed), "influence").astype(float).mean(0)
    assert np.corrcoef(means, record.mean)[0, 1] > 0.8


@pytest.mark.parametrize("compute", [{"batch_size": 1}, {"batch_size": 7, "rows_per_part": 5}])
def test_rows_do_not_depend_on_batches_or_shard_order(
    undisturbed: Path, tmp_path: Path, tiny_shards: Path, tiny_target: Path, compute: dict[str, object]
) -> None:
    shuffled = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    manifest = read_manifest(Location.of(shuffled))
    order = np.random.default_rng(compute["batch_size"]).permutation(len(manifest.shards))
    changed = manifest.model_copy(update={"shards": tuple(manifest.shards[i] for i in order)})
    (shuffled / MANIFEST).write_text(changed.model_dump_json())
    config = make_config(tmp_path / "run", shuffled, tiny_target)
    run_audit(config.model_copy(update={"compute": config.compute.model_copy(update=compute)}))
    assert_same_rows(read_rows(tmp_path / "run"), read_rows(undisturbed))


def test_the_same_command_resumes_and_keeps_what_is_there(
    undisturbed: Path, tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    parts = sorted((out / "samples").glob("*.parquet"))
    parts[0].unlink()
    kept = {path: path.read_bytes() for path in parts[1:]}
    run_audit(make_config(out, tiny_shards, tiny_target))
    assert all(path.read_bytes() == data for path, data in kept.items())
    rows = read_rows(out)
    assert len(rows) == 48  # nothing computed twice
    assert_same_rows(rows, read_rows(undisturbed))


def test_a_finished_run_reads_no_shard_again(
    undisturbed: Path, tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    for path in shards.rglob("*.tar"):
        path.unlink()
    before = sorted(path.name for path in (out / "samples").iterdir())
    results = run_audit(make_config(out, shards, tiny_target))
    assert results.members == 24
    assert sorted(path.name for path in (out / "samples").iterdir()) == before


def test_repeated_rows_count_once(undisturbed: Path, tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    part = next((out / "samples").glob("*.parquet"))
    shutil.copy(part, part.with_name("part-again.parquet"))
    results = run_audit(make_config(out, tiny_shards, tiny_target))
    expected = Results.model_validate_json((undisturbed / "results.json").read_bytes())
    assert (results.members, results.heldout) == (24, 24)
    assert results.headline == expected.headline
    ranking = pq.read_table(out / "ranking.parquet")
    np.testing.assert_allclose(ranking["mean"], pq.read_table(undisturbed / "ranking.parquet")["mean"], rtol=1e-9)


def test_another_run_is_refused_with_the_difference(undisturbed: Path, tiny_shards: Path, tiny_target: Path) -> None:
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"geometry\.probes was 2, is now 3"):
        run_audit(make_config(undisturbed, tiny_shards, tiny_target, geometry={"probes": 3, "distortion_share": 0.5}))
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


def test_a_run_does_not_go_on_with_other_draws(
    undisturbed: Path, tiny_shards: Path, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_scale.inputs.DRAWS", "others")
    with pytest.raises(UsageError, match=r'\(draws was "philox4x32-10, 0\.6 Q \+ 0\.8 Q", is now "others"\)'):
        run_audit(make_config(undisturbed, tiny_shards, tiny_target))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Forty pictures, of which one is broken and one is large."""
    source = make_folder(tmp_path / "source", 40)
    (source / "dog/000.png").write_bytes(BROKEN)
    make_folder(tmp_path / "large", 2, size=40)
    shutil.copy(tmp_path / "large/cat/001.png", source / "cat/001.png")
    out = tmp_path / "shards"
    pack(PackConfig(dataset="folder", source=str(source), out=str(out), near_duplicates=0, shard_samples=8))
    return out


def test_bad_samples_are_rejected_by_name_and_the_run_goes_on(damaged: Path, tmp_path: Path, tiny_target: Path) -> None:
    config = make_config(
        tmp_path / "run", damaged, tiny_target, **BRIEF, images={"max_pixels": 1000}, max_reject_fraction=0.1
    )
    results = run_audit(config)
    assert results.members + results.heldout == 38
    assert sum(results.rejected.values()) == 2
    rejects = RunDirectory(Location.of(tmp_path / "run")).rejects().to_pylist()
    reasons = {row["sample_id"].split("/", 1)[1]: (row["stage"], row["reason"]) for row in rejects}
    assert set(reasons) == {"dog/000", "cat/001"}
    assert reasons["dog/000"][0] == "decode"
    assert reasons["cat/001"] == ("decode", "more than max_pixels = 1000 (40 x 40)")


def test_too_many_rejects_fail_the_run(damaged: Path, tmp_path: Path, tiny_target: Path) -> None:
    for _ in range(2):
        with pytest.raises(RunError, match="1 of 40 samples were rejected, more than max_reject_fraction"):
            run_audit(make_config(tmp_path / "run", damaged, tiny_target, **BRIEF))
    assert not (tmp_path / "run/results.json").exists()


def test_rejects_are_kept_until_they_are_retried(
    undisturbed: Path, tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    """A third of the samples were rejected for what has gone since: a GPU that broke, say."""
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    part = next((out / "samples").glob("*.parquet"))
    lost = pq.read_table(part)["sample_id"].to_pylist()
    part.unlink()
    rejects = [{"sample_id": key, "stage": "audit", "reason": "a number is not finite"} for key in lost]
    run = RunDirectory(Location.of(out))
    schema = REJECT.with_metadata(run.read_record().schema.metadata)
    run.commit(read_rows(out)[:0], pa.Table.from_pylist(rejects, schema))
    config = make_config(out, tiny_shards, tiny_target)
    with pytest.raises(RunError, match=f"{len(lost)} of 48 samples were rejected"):
        run_audit(config)
    results = run_audit(config.model_copy(update={"max_reject_fraction": 1.0}))
    assert (results.rejected, results.members + results.heldout) == (
        {"audit: a number is not finite": len(lost)},
        48 - len(lost),
    )
    results = run_audit(config.model_copy(update={"retry_rejects": True}))
    assert (results.rejected, results.members + results.heldout) == ({}, 48)
    rows = read_rows(out)
    assert len(rows) == 48  # nothing but the rejects was computed
    assert_same_rows(rows, read_rows(undisturbed))
    assert len(run.reject_parts()) == 1
    assert run_audit(config).rejected == {}


def test_a_truncated_shard_fails_the_run_by_name(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    victim = shards / "heldout/heldout-000001.tar"
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(RunError, match=r"heldout-000001\.tar"):
        run_audit(make_config(tmp_path / "run", shards, tiny_target, **BRIEF))


@pytest.mark.parametrize("make", [tiny.dit, tiny.stable_diffusion, tiny.stable_diffusion_3])
def test_shards_bring_the_condition_to_the_target(
    tmp_path: Path, tiny_shards: Path, make: Callable[[Path], Path]
) -> None:
    target = make(tmp_path / "target")
    run_audit(make_config(tmp_path / "run", tiny_shards, target, **BRIEF))
    assert len(read_rows(tmp_path / "run")) == 48


def test_a_sample_without_a_caption_is_rejected_and_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", 24)
    (source / "cat/007.txt").unlink()
    shards, target = tmp_path / "shards", tiny.stable_diffusion(tmp_path / "target")
    pack(PackConfig(dataset="folder", source=str(source), out=str(shards), near_duplicates=0, shard_samples=8))
    options = {**BRIEF, "max_reject_fraction": 0.1}
    run_audit(make_config(tmp_path / "run", shards, target, **options))
    (reject,) = RunDirectory(Location.of(tmp_path / "run")).rejects().to_pylist()
    assert reject["sample_id"].endswith("/cat/007")
    assert (reject["stage"], reject["reason"]) == ("condition", "no caption")

    rows = read_rows(tmp_path / "run")
    keys = {
        side: [key.split("/", 1)[1] for key in rows.filter(pc.equal(rows["member"], side))["sample_id"].to_pylist()]
        for side in (True, False)
    }
    split = split_file(tmp_path / "split.json", Split(tuple(keys[True]), tuple(keys[False])))
    run_audit(make_config(tmp_path / "without", shards, target, **options, split=str(split)))
    without = read_rows(tmp_path / "without")
    assert without["sample_id"].to_pylist() == rows["sample_id"].to_pylist()
    assert len(rows) == 23
    np.testing.assert_allclose(column(without, "influence"), column(rows, "influence"), rtol=0, atol=4e-3)
    np.testing.assert_allclose(column(without, "sima"), column(rows, "sima"), rtol=2e-3)


def test_labels_that_the_target_does_not_know_fail_the_run(tmp_path: Path, tiny_shards: Path) -> None:
    """Its calibration set has them, too."""
    target = tiny.dit(tmp_path / "target", classes=1)
    with pytest.raises(RunError, match="samples were rejected, more than max_reject_fraction"):
        run_audit(make_config(tmp_path / "run", tiny_shards, target))
    rejects = RunDirectory(Location.of(tmp_path / "run")).rejects().to_pylist()
    assert {(row["stage"], row["reason"]) for row in rejects} == {
        ("condition", "a class label 1, which is not in 0 ... 0")
    }


def test_without_conditioning_labels_are_not_looked_at(tmp_path: Path, tiny_shards: Path) -> None:
    target = tiny.dit(tmp_path / "target", classes=1)
    results = run_audit(make_config(tmp_path / "run", tiny_shards, target, **BRIEF, conditioning="none"))
    assert (results.members + results.heldout, results.rejected) == (48, {})


def test_what_a_target_cannot_be_asked_is_refused_before_the_run(tmp_path: Path, tiny_shards: Path) -> None:
    out, unet, flow = tmp_path / "run", tiny.class_unet(tmp_path / "unet"), tiny.stable_diffusion_3(tmp_path / "sd3")
    with pytest.raises(UsageError, match=r"^conditioning = none: "):
        run_audit(make_config(out, tiny_shards, unet, conditioning="none"))
    for target, reason in ((unet, "a class label 5, which is not in 0 ... 4"), (flow, "no caption")):
        with pytest.raises(UsageError, match=f"conditioning = 5 is not a class of the target: {reason}"):
            run_audit(make_config(out, tiny_shards, target, conditioning=5))
    with pytest.raises(UsageError, match=r"attacks\.loss\.timesteps: at 999 the target sees nothing but noise"):
        run_audit(make_config(out, tiny_shards, flow, attacks={"loss": {"timesteps": [0, 999]}}))
    assert not out.exists()


def split_file(path: Path, split: Split) -> Path:
    import json

    path.write_text(json.dumps({"members": split.members, "heldout": split.heldout}))
    return path


def test_a_split_file_decides_who_is_a_member(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    keys = [f"{'cat' if n % 2 else 'dog'}/{n:03d}" for n in range(48)]
    split = Split(tuple(keys[:10]), tuple(keys[10:22]))
    path = split_file(tmp_path / "split.json", split)
    results = run_audit(make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF, split=str(path)))
    assert (results.members, results.heldout, results.expected) == (10, 12, 22)
    rows = read_rows(tmp_path / "run")
    members = rows.filter(rows["member"])["sample_id"].to_pylist()
    assert {key.split("/", 1)[1] for key in members} == set(split.members)

    # A finished run reads no shard again, not even for its keys.
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    for shard in shards.rglob("*.tar"):
        shard.unlink()
    again = run_audit(make_config(tmp_path / "run", shards, tiny_target, **BRIEF, split=str(path)))
    assert again == results


def test_a_limit_takes_samples_of_each_side_wherever_they_lie(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    keys = {}
    for limit in (4, 14):
        out = tmp_path / str(limit)
        results = run_audit(make_config(out, tiny_shards, tiny_target, **BRIEF, limit=limit))
        assert (results.members, results.heldout, results.expected) == (limit, limit, 2 * limit)
        rows = read_rows(out)
        assert sum(rows["member"].to_pylist()) == limit
        keys[limit] = set(rows["sample_id"].to_pylist())
    assert keys[4] < keys[14]
    # In one shard samples may lie by class.
    assert len({split_id(key)[0] for key in keys[14]}) == 8


def test_a_split_file_naming_absent_keys_is_refused(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    dogs, cats = (
        tuple(f"{name}/{number:03d}" for number in range(first, 8, 2)) for name, first in (("dog", 0), ("cat", 1))
    )
    path = split_file(tmp_path / "split.json", Split((*dogs, "bird/999"), cats))
    with pytest.raises(UsageError, match=r"1 keys absent from .*, the first is 'bird/999'"):
        run_audit(make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF, split=str(path)))
    assert not (tmp_path / "run").exists()


def test_a_lora_is_another_target_and_is_recorded(tmp_path: Path, tiny_shards: Path) -> None:
    target = tiny.stable_diffusion(tmp_path / "target")
    file = diffusers_file(tmp_path / "lora.safetensors", make_weights(target))
    for name, lora in {"base": {}, "fused": {"lora": str(file), "lora_scale": 0.5}}.items():
        run_audit(make_config(tmp_path / name, tiny_shards, target, **BRIEF, **lora))
    base, fused = (RunDirectory(Location.of(tmp_path / name)).read_record() for name in ("base", "fused"))
    assert base.fingerprint != fused.fingerprint
    lora = {"weights": Location.of(file).sha256(), "scale": 0.5, "alphas": "of each module"}
    assert {**base.science, "lora": lora} == fused.science
    assert (fused.config.lora, fused.config.lora_scale) == (str(file), 0.5)
    ours, theirs = read_rows(tmp_path / "fused"), read_rows(tmp_path / "base")
    # The decoder is the same, the noise is not.
    np.testing.assert_allclose(column(ours, "influence"), column(theirs, "influence"), rtol=1e-3)
    assert np.abs(column(ours, "sima") / column(theirs, "sima") - 1).mean() > 0.01
    assert str(file) in (tmp_path / "fused/report.html").read_text()
    with pytest.raises(UsageError, match=r"holds another run \(lora\.scale was 0\.5, is now 0\.25\)"):
        run_audit(make_config(tmp_path / "fused", tiny_shards, target, **BRIEF, lora=str(file), lora_scale=0.25))


def test_a_target_on_s3_gives_the_rows_of_the_local_one(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, bucket: str, undisturbed: Path
) -> None:
    address = upload(tiny_target, f"{bucket}/target")
    run_audit(make_config(tmp_path / "run", tiny_shards, address))
    assert_same_rows(read_rows(tmp_path / "run"), read_rows(undisturbed))
    records = [RunDirectory(Location.of(out)).read_record() for out in (tmp_path / "run", undisturbed)]
    assert records[0].fingerprint == records[1].fingerprint
    assert records[0].config.target == address


def test_the_time_at_which_everything_was_fixed_is_before_the_first_row(undisturbed: Path) -> None:
    run = RunDirectory(Location.of(undisturbed))
    fixed = run.read_record().fixed
    assert fixed is not None
    assert all(fixed.timestamp() <= changed / 1e9 for _, changed in (run.root / "samples").versions().values())


def test_a_target_that_changes_before_an_auditor_loads_it_fails_the_run_by_name(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    folder = Path(shutil.copytree(tiny_target, tmp_path / "target"))
    inputs = check_inputs(make_config(tmp_path / "run", tiny_shards, folder))
    record = plan_audit(inputs, RunDirectory(Location.of(tmp_path / "run"))).record
    load_auditor(record, "cpu")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=rf"^target {folder} is not the one the run began with"):
        load_auditor(record, "cpu")
