"""The first lines of an audit's log."""

import json
from dataclasses import replace
from pathlib import Path

from ldm_scale.costs.batch import BatchChoice
from ldm_scale.costs.briefing import briefing, describe_audit
from ldm_scale.engine.plan import plan_audit
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import check_inputs
from tests.engine.runs import BRIEF, make_config
from tests.targets import tiny


def brief(values: dict[str, object], out: Path, shards: Path, target: Path) -> dict[str, str]:
    config = make_config(out, shards, target, **values)
    inputs = check_inputs(config)
    plan = plan_audit(inputs, RunDirectory(Location.of(out)))
    lines = briefing(inputs, plan.record, len(plan.tasks), BatchChoice(8, "as asked for"))
    return dict(line.strip().split(maxsplit=1) for line in lines)


def test_it_says_what_is_audited_what_it_costs_and_where_it_goes(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    values: dict[str, object] = {
        "attacks": {"sima": {"timesteps": "0:300:10"}, "secmi": {"timesteps": "0:300:10"}},
        "geometry": {"probes": 4, "distortion": "truncated", "distortion_share": 0.5},
        "masks": {"bins": 8, "ranking": "calibration"},
        "analysis": {"drop": 0.5},
        "precision": "bfloat16",
    }
    found = brief(values, tmp_path / "run", tiny_shards, tiny_target)
    assert found["target"].startswith(f"{tiny_target}: UnconditionalTarget: 16 px images, 4 x 4 x 4 latents (64 ")
    assert found["shards"] == f"{tiny_shards}: 8 to audit"
    assert found["samples"] == "48: 24 members, 24 held-out, by folder"
    assert found["attacks"] == (
        "sima: 30 timesteps 0, 10, ..., 290; secmi: 30 timesteps 0, 10, ..., 290; 60 denoiser evaluations a sample"
    )
    assert found["geometry"] == (
        "influence hutchinson, 4 probes; distortion truncated of rank 20 on 50% of the samples, estimated on the "
        "others; about 54 decoder products a sample"
    )
    assert found["masks"] == "8 bins of influence rank, each sample's own and a random one"
    assert found["ranking"] == "one for all samples, from mean influences of about 256 calibration samples"
    assert found["precision"] == "the denoiser in bfloat16"
    assert (found["seed"], found["rows"]) == ("0", f"{tmp_path}/run/samples")
    assert (len(found["fingerprint"]), found["batch"]) == (12, "8 samples at a time: as asked for")


def test_what_is_not_measured_is_not_counted(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    values: dict[str, object] = {"geometry": {"influence": "exact", "distortion": "off"}, "masks": {"bins": 5}}
    found = brief(values, tmp_path / "run", tiny_shards, tiny_target)
    assert found["geometry"] == "influence exact; distortion off; 64 decoder products a sample"
    assert not {"ranking", "precision"} & found.keys()


def test_many_products_are_written_in_full(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    values: dict[str, object] = {"geometry": {"probes": 262_144, "distortion": "off"}, "masks": {"bins": 5}}
    found = brief(values, tmp_path / "run", tiny_shards, tiny_target)
    assert found["geometry"].endswith("; 262,144 decoder products a sample")


def test_a_cheaper_estimate_of_influences_is_named(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    """From two probes of each sample, and four of each of 256 samples before."""
    values: dict[str, object] = {**BRIEF, "geometry": {"probes": 16, "distortion": "off"}}
    inputs = check_inputs(make_config(tmp_path / "run", tiny_shards, tiny_target, **values))
    said = dict(describe_audit(inputs, 300, 300, 8))["Cheaper"]
    assert "--geometry.influence pooled --geometry.probes 2: 2,224 products for influences, not 9,600;" in said
    assert "Cheaper" not in dict(describe_audit(inputs, 36, 36, 8))  # 1,168 products, and 1,152


def test_a_target_of_another_table_of_classes_is_warned_of(tmp_path: Path, tiny_shards: Path) -> None:
    target = tiny.class_unet(tmp_path / "target")
    for names, warned in ((("cat", "dog"), False), (("dog", "cat"), True)):
        index = {"id2label": {str(number): name for number, name in enumerate(names)}}
        (target / "model_index.json").write_text(json.dumps(index))
        found = brief(BRIEF, tmp_path / "run", tiny_shards, target)
        assert ("'dog' in the target" in found.get("warning", "")) == warned


def test_sides_of_unlike_bytes_are_warned_of(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    inputs = check_inputs(make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF))
    assert "Warning" not in dict(describe_audit(inputs, 24, 24, 8))
    shards = inputs.manifest.shards
    grown = tuple(
        shard.model_copy(update={"bytes": 9 * shard.bytes}) if shard.side == "members" else shard for shard in shards
    )
    other = replace(inputs, manifest=inputs.manifest.model_copy(update={"shards": grown}))
    assert "bytes a member" in dict(describe_audit(other, 24, 24, 8))["Warning"]
