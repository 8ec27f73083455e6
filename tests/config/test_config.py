"""The configuration tree: closed, frozen, checked with errors that name the key."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ldm_scale.config.audit import AuditConfig, dropped_bins
from ldm_scale.config.base import Config, build
from ldm_scale.config.data import PackConfig, ValidateConfig
from ldm_scale.config.own import OwnConfig
from ldm_scale.config.reproduce import ReproduceConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.config.values import merge
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import digest
from ldm_scale.flags import load_yaml

BASE: dict[str, Any] = {"out": "o", "shards": "s", "target": "t"}


def audit(**changes: object) -> AuditConfig:
    return build(AuditConfig, BASE | changes)


def leaves(kind: type[Config], prefix: str = "") -> list[str]:
    """Dotted names of all options."""
    names: list[str] = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            names += leaves(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AuditConfig, {"out": "o", "seeds": 3}, r"^seeds: no such option; did you mean seed\?$"),
        (
            AuditConfig,
            {"out": "o", "images": {"sise": 3}},
            r"^images\.sise: no such option; did you mean images\.size\?$",
        ),
        (
            AuditConfig,
            {"out": "o", "compute": {"gpu": {"x": 1}}},
            r"^compute\.gpu: no such option; did you mean compute\.gpus\?$",
        ),
        (
            PackConfig,
            {"dataset": "folder", "source": "s", "out": "o", "side": 3},
            r"^side: no such option; did you mean size\?$",
        ),
        (TrainConfig, {"shards": "s", "out": "o", "target": "t"}, "^target: no such option$"),
    ],
)
def test_an_unknown_key_is_named(kind: type[Config], values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(kind, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "^out: must be given$"),
        ({"out": 3}, "^out: Input should be a valid string"),
        ({"out": "o", "seed": "many"}, "^seed: "),
        ({"out": "o", "latent": "mean"}, "^latent: .*'mode' or 'sample'"),
        ({"out": "o", "max_reject_fraction": 1.5}, "^max_reject_fraction: "),
        ({"out": "o", "images": {"size": 0}}, r"^images\.size: "),
        ({"out": "o", "images": None}, "^images: "),
        ({"out": "o", "geometry": {"probes": -1}}, r"^geometry\.probes: "),
        ({"out": "o", "geometry": {"influence": "off"}}, r"geometry\.influence off: give masks\.ranking"),
        (
            {"out": "o", "geometry": {"influence": "off", "distortion": "bound"}, "masks": {"ranking": "calibration"}},
            r"geometry\.distortion bound: .*influence is off",
        ),
        ({"out": "o", "geometry": {"memory": "some"}}, r"^geometry\.memory: 'some' is not a size"),
        ({"out": "o", "analysis": {"drop": 0}}, r"^analysis\.drop: "),
        ({"out": "o", "analysis": {"drop": 1}}, r"^analysis\.drop: "),
        ({"out": "o", "masks": {"bins": 1}}, r"^masks\.bins: "),
        ({"out": "o", "attacks": {}}, "^attacks: name at least one$"),
        ({"out": "o", "attacks": []}, "^attacks: name at least one$"),
        ({"out": "o", "attacks": 3}, "^attacks: "),
        ({"out": "o", "attacks": {"sima": 3}}, r"^attacks\.sima: "),
        ({"out": "o", "lora_scale": 0.5}, "^lora_scale: there is no lora to scale$"),
        ({"out": "o", "shards": "s"}, "^give both shards and target"),
        ({"out": "o", "target": "t"}, "^give both shards and target"),
    ],
)
def test_a_value_that_does_not_fit_is_named_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build(AuditConfig, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("drop", "bins"), [(0.41, 20), (0.4, 4), (0.33, 3), (0.001, 20)])
def test_a_drop_share_between_two_bins_is_refused(drop: float, bins: int) -> None:
    with pytest.raises(UsageError, match=rf"analysis\.drop = {drop} is not a multiple of 1 / masks\.bins"):
        audit(analysis={"drop": drop}, masks={"bins": bins})


@pytest.mark.parametrize(
    ("drop", "bins", "dropped"),
    [
        (0.4, 20, 8), (0.35, 20, 7), (0.05, 20, 1), (0.3, 10, 3), (1 / 3, 3, 1), (0.29, 100, 29), (0.7, 10, 7),
        (0.95, 20, 19), (0.333333333333, 3, 1),
    ],
)  # fmt: skip
def test_a_drop_share_on_a_bin_is_taken_whatever_its_rounding(drop: float, bins: int, dropped: int) -> None:
    assert dropped_bins(drop, bins) == dropped
    assert audit(analysis={"drop": drop}, masks={"bins": bins}).analysis.drop == drop


def test_configurations_are_frozen_at_every_level() -> None:
    config = audit()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.images.size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "attacks", ["sima,loss", " sima , loss ", ["sima", "loss"], ("sima", "loss"), {"sima": {}, "loss": {}}]
)
def test_attacks_are_named_as_text_list_or_mapping(attacks: object) -> None:
    config = audit(attacks=attacks)
    assert list(config.attacks.items()) == [("sima", {}), ("loss", {})]


def test_attack_options_are_kept_and_one_attack_is_the_default() -> None:
    assert audit(attacks={"sima": {"timesteps": "0:10"}}).attacks == {"sima": {"timesteps": "0:10"}}
    assert audit().attacks == {"sima": {}}


def test_the_demo_is_audited_by_default() -> None:
    config = build(AuditConfig, {"out": "o"})
    assert Path(config.shards).parent == Path(config.target).parent


# Another value of every option that an audit has.
CHANGES: dict[str, Any] = {
    "out": "other",
    "shards": "other",
    "manifest": "other",
    "target": "other",
    "lora": "other",
    "lora_scale": 0.5,
    "reference": "other",
    "split": "file.json",
    "limit": 5,
    "seed": 1,
    "latent": "sample",
    "conditioning": "none",
    "max_reject_fraction": 0.5,
    "retry_rejects": True,
    "attacks": {"sima": {"p": 2}},
    "images.size": 64,
    "images.crop": 140,
    "images.filter": "bilinear",
    "images.max_pixels": 100,
    "geometry.influence": "exact",
    "geometry.precision": "bfloat16",
    "geometry.probes": 8,
    "geometry.calibration": 8,
    "geometry.distortion": "off",
    "geometry.distortion_share": 0.5,
    "geometry.rank": 50,
    "geometry.latent": "sample",
    "geometry.memory": "4GiB",
    "masks.bins": 10,
    "masks.ranking": "calibration",
    "leakage.attack": "loss",
    "leakage.timestep": 30,
    "analysis.drop": 0.2,
    "analysis.average": "sima",
    "analysis.repeats": 2,
    "analysis.bootstrap": 10,
    "analysis.confidence": 0.5,
    "precision": "bfloat16",
    "compute.device": "cpu",
    "compute.evaluations": 7,
    "compute.compile": "default",
    "compute.channels_last": True,
    "compute.batch_size": 3,
    "captions": "random",
    "compute.actors": 3,
    "compute.gpus": "0..3",
    "compute.initial_actors": 2,
    "compute.cpus_per_actor": 1,
    "compute.gpus_per_actor": 0.5,
    "compute.cpus_per_reader": 1,
    "compute.cpus_per_decoder": 1,
    "compute.rows_per_part": 1,
}


@pytest.mark.parametrize("name", leaves(AuditConfig))
def test_rows_depend_on_everything_but_addresses_memory_compute_and_analysis(name: str) -> None:
    section, _, leaf = name.rpartition(".")
    value = CHANGES[name]
    needed = {"lora": "other"} if name == "lora_scale" else {}
    changed = audit(**{section: {leaf: value}} if section else {leaf: value}, **needed)
    apart = {
        "out",
        "shards",
        "manifest",
        "target",
        "lora",
        "lora_scale",
        "reference",
        "split",
        "max_reject_fraction",
        "retry_rejects",
        "compute",
        "analysis",
        "geometry.memory",
        "masks.ranking",
    }
    assert (changed.science() == audit().science()) == bool({name, section} & apart)


def test_the_first_caption_is_what_it_was_before_there_was_a_choice() -> None:
    """No fingerprint and no recipe names it; the others do."""
    train = {"shards": "s", "out": "o"}
    for make in (lambda **some: audit(**some).science(), lambda **some: build(TrainConfig, train | some).recipe()):
        first, chosen = make(captions="first"), make(captions="all")
        assert make() == first
        assert "captions" not in first
        assert chosen == first | {"captions": "all"}


def test_the_audit_of_a_reference_differs_in_its_target_alone() -> None:
    config = audit(out="o/", lora="adapter", lora_scale=0.5, reference="base", seed=3, limit=9)
    other = config.of_reference()
    assert (other.target, other.out, other.reference, other.lora, other.lora_scale) == (
        *("base", "o/reference", None, None, 1.0),
    )
    assert other.science() == config.science()
    assert other.compute == config.compute


def test_a_limit_is_named_only_if_there_is_one() -> None:
    assert audit(limit=5).science() == audit().science() | {"limit": 5}
    assert "limit" not in audit().science()


def test_rank_and_latent_of_geometry_are_what_they_were_before_there_was_a_choice() -> None:
    """No fingerprint names them unless rows differ by them."""
    assert not {"rank", "latent"} & audit().science()["geometry"].keys()
    for latent in ("mode", "sample"):
        assert audit(latent=latent, geometry={"latent": latent, "rank": 20}).science() == audit(latent=latent).science()
    apart = audit(latent="sample", geometry={"latent": "mode", "rank": 50}).science()["geometry"]
    assert apart == audit().science()["geometry"] | {"latent": "mode", "rank": 50}


@pytest.mark.parametrize(
    ("section", "before", "other"), [("autoencoder", "resnet", "strided"), ("denoiser", "unet", "class-token")]
)
def test_the_first_kind_of_network_is_what_it_was_before_there_was_a_choice(
    section: str, before: str, other: str
) -> None:
    """No recipe names it; the other is named."""
    values = {"shards": "s", "out": "o", "denoiser": {"classes": True}}
    made = {kind: build(TrainConfig, merge(values, {section: {"kind": kind}})).recipe() for kind in (before, other)}
    assert made[before] == build(TrainConfig, values).recipe()
    assert not any("kind" in made[before][name] for name in ("autoencoder", "denoiser"))
    assert made[other] == merge(made[before], {section: {"kind": other}})


def test_tokens_of_classes_need_classes() -> None:
    with pytest.raises(UsageError, match=r"give denoiser\.classes"):
        build(TrainConfig, {"shards": "s", "out": "o", "denoiser": {"kind": "class-token"}})


def test_only_runs_of_truncated_distortion_are_other_than_they_were_with_another_method_for_it() -> None:
    named = {value: "truncated" in audit(geometry={"distortion": value}).science() for value in ("truncated", "exact")}
    assert named == {"truncated": True, "exact": False}


def test_only_runs_of_pooled_influence_are_other_than_they_were_with_another_filter_for_it() -> None:
    named = {value: "pooled" in audit(geometry={"influence": value}).science() for value in ("pooled", "hutchinson")}
    assert named == {"pooled": True, "hutchinson": False}


def test_science_is_plain_json_and_survives_it() -> None:
    config = audit(attacks={"sima": {"timesteps": [0, 10]}})
    again = AuditConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert digest(again.science()) == digest(config.science())


@pytest.mark.parametrize("kind", [AuditConfig, PackConfig, TrainConfig])
def test_every_option_is_described(kind: type[Config]) -> None:
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            assert inner.__doc__
            assert all(leaf.description for leaf in inner.model_fields.values()), name
        else:
            assert field.description, name


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": [1, 2], "d": None}}) == digest({"b": {"d": None, "c": [1, 2]}, "a": 1})
    others = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": [1]}, [], ["a", 1], "a"]
    assert len({digest(content) for content in others}) == len(others)
    assert len(digest({})) == 64


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (AuditConfig, {"out": "o", "attacks": [["sima"]]}, "attacks: "),
        (OwnConfig, {"target": "t", "suspect": "s", "heldout": "h", "out": "o", "attacks": ""}, "attacks: "),
        (ReproduceConfig, {"data": "d", "seeds": "-1"}, "the training cannot be so: seed: "),
        (ReproduceConfig, {"data": "d", "steps": 10**8}, "the training cannot be so: denoiser.epochs: "),
        (PackConfig, {"dataset": "folder", "source": "s", "out": "o", "label_column": "x"}, "label_column: it is for "),
        (ValidateConfig, {"target": "t", "split": "s"}, "split: give the shards"),
        (ValidateConfig, {"shards": "s", "lora": "l"}, "lora: give the target"),
    ],
)
def test_what_cannot_be_or_would_be_passed_over_is_one_line(kind: type[Config], values: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}") as caught:
        build(kind, values)
    assert "\n" not in str(caught.value)


def test_yaml_gives_nested_values(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text("seed: 3\nattacks:\n  sima:\n    timesteps: 0:30:10\nimages: {size: 64}\n")
    values = load_yaml(str(path))
    assert values == {"seed": 3, "attacks": {"sima": {"timesteps": "0:30:10"}}, "images": {"size": 64}}


def test_yaml_has_ranges_and_names_where_yaml_1_1_has_times_and_dates(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text("timesteps: 10:50:10\nout: 2024-02-31\nseed: -3\nshare: 0.5\nnone: null\nyes: true\n'1:2': '3:4'\n")
    expected = {"timesteps": "10:50:10", "out": "2024-02-31", "seed": -3, "share": 0.5, "none": None, True: True}
    assert load_yaml(str(path)) == expected | {"1:2": "3:4"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"just text", b"- a\n- b", b"a: [1", b"a: b: c", b"\ta: 1", b"\xff\xfe\x00a"),
        *(b"a: !!python/name:os.system", b"a: !!int b", b"a: !!int ''", b"a: !!bool b", b"a: !!timestamp b"),
    ],
)
def test_yaml_that_cannot_be_used_is_a_usage_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"configuration .*bad\.yaml") as caught:
        load_yaml(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_yaml_file_or_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(UsageError, match=f"configuration {path}"):
            load_yaml(str(path))
