"""From S3 to S3: every address that an audit takes may lie there, and gives what local files give."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ldm_scale.cli import main, run_job
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import check_inputs
from tests.addresses import upload
from tests.engine.runs import BRIEF, column, make_config, raw_rows

pytestmark = pytest.mark.usefixtures("inline")

PATTERN = "{members/members,heldout/heldout}-{000001..000003}.tar"
RECIPE: dict[str, object] = {
    **BRIEF,
    "analysis": {"bootstrap": 50, "repeats": 2},
    "compute": {"device": "cpu", "batch_size": 8, "actors": 1},
}


def pictures(run: RunDirectory) -> list[str]:
    return re.findall(r"data:image/png;base64,[^\"]+", (run.root / "report.html").read_text())


def test_an_audit_from_s3_to_s3_gives_what_local_files_give(
    tmp_path: Path,
    tiny_shards: Path,
    tiny_target: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    local, out = RunDirectory(Location.of(tmp_path / "run")), RunDirectory(Location.of(f"{bucket}/runs/first"))
    flags = ["--shards", f"{tiny_shards}/{PATTERN}", "--target", str(tiny_target), "--out", str(local.root)]
    assert run_job("", RECIPE, flags) == 0

    # A folder of shards without a manifest, as in a bucket that its user cannot write to.
    shards = shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("manifest.json"))
    upload(Path(shards), f"{bucket}/shards")
    upload(tiny_target, f"{bucket}/target")
    (Location.of(bucket) / "described.json").create((tiny_shards / "manifest.json").read_bytes())
    (Location.of(bucket) / "audit.yaml").create(yaml.safe_dump({"manifest": f"{bucket}/described.json"}).encode())
    monkeypatch.setenv("LDM_SCALE_SHARDS", f"{bucket}/shards/{PATTERN}")
    monkeypatch.setenv("LDM_SCALE_TARGET", f"{bucket}/target")
    monkeypatch.setenv("LDM_SCALE_OUT", str(out.root))
    before = Location.of(f"{bucket}/shards").versions()
    assert run_job("", RECIPE, ["--config", f"{bucket}/audit.yaml"]) == 0
    assert Location.of(f"{bucket}/shards").versions() == before

    record = out.read_record()
    assert (record.members, record.heldout) == (18, 18)
    assert record.fingerprint == local.read_record().fingerprint
    found, expected = raw_rows(out), raw_rows(local)
    for name in ("sample_id", "member"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    assert len(set(found["sample_id"].to_pylist())) == 36
    np.testing.assert_allclose(column(found, "influence"), column(expected, "influence"), rtol=0, atol=4e-3)
    # Two influences that all but tie may swap bins, which leaves their sum.
    ours, theirs = (column(table, "sima").reshape(-1, 2, 5).sum(2) for table in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    # The report found the pictures of the same samples again, by pattern and manifest.
    assert len(set(pictures(local))) > 3
    assert sorted(pictures(out)) == sorted(pictures(local))

    capsys.readouterr()
    assert main(["status", str(out.root)]) == 0
    assert f"{out.root}: 36 of 36 samples done, 0 left (18 members are expected)" in capsys.readouterr().out
    for run in (out, local):
        assert main(["reduce", str(run.root), "--drop", "0.2"]) == 0
    results, reference = (json.loads((run.root / "results.json").read_bytes()) for run in (out, local))
    assert results["inputs"] == reference["inputs"]
    aurocs = [[point["auroc"] for point in each["by_timestep"]] for each in (results, reference)]
    assert aurocs[0] == pytest.approx(aurocs[1], abs=0.02)
    page = (out.root / "report.html").read_bytes()
    assert main(["report", str(out.root)]) == 0
    assert (out.root / "report.html").read_bytes() == page

    # Another run's ranking and a split file are read from there as well.
    split = {"members": found["sample_id"][:1], "heldout": found["sample_id"][-1:]}
    split = {side: [sample_id.as_py().split("/", 1)[1] for sample_id in ids] for side, ids in split.items()}
    (Location.of(bucket) / "split.json").create(json.dumps(split).encode())
    masks = [{"bins": 5, "ranking": str(run.root)} for run in (out, local)]
    theirs = check_inputs(
        make_config(tmp_path / "new", tiny_shards, tiny_target, masks=masks[0], split=f"{bucket}/split.json")
    )
    assert theirs.split is not None
    assert vars(theirs.split) == {side: tuple(keys) for side, keys in split.items()}
    mine = check_inputs(make_config(tmp_path / "new", tiny_shards, tiny_target, masks=masks[1]))
    assert theirs.ranking is not None
    np.testing.assert_allclose(theirs.ranking, mine.ranking, rtol=1e-3)
    assert theirs.config.masks.ranking == str(out.root)
