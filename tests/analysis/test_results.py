"""results.json is a documented, closed schema."""

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ldm_scale.analysis import results
from ldm_scale.analysis.results import (
    BinPoint,
    BlindControl,
    Choice,
    Combined,
    DatasetInference,
    DistortionEstimate,
    DistortionGroup,
    Estimate,
    Headline,
    HeldoutChoice,
    Leakage,
    MetricSet,
    PaperCell,
    PaperGroup,
    PaperRow,
    Point,
    Record,
    Relative,
    RelativeRow,
    Results,
    RocPoint,
    ScoredSample,
    Stability,
    Telltale,
)

MODELS = [model for model in vars(results).values() if isinstance(model, type) and issubclass(model, Record)]
# Keys that say what they are, or whose model's docstring does.
SELF_EVIDENT = {
    *("attack", "row", "mask", "drop", "timestep", "metrics", "auroc", "fpr", "tpr", "value", "low", "high"),
    *("sample_id", "format", "feature", "bootstrap", "confidence", "headline", "roc", "features", "inference"),
    *("members", "heldout", "combined", "leakage", "by_bin"),
}


def example() -> Results:
    """One of everything."""
    estimate = Estimate(value=0.7, low=0.6, high=0.8)
    metrics = MetricSet(**dict.fromkeys(MetricSet.model_fields, estimate))
    choice = {"timestep": None, "mask": "lowest", "drop": 0.4, "metrics": metrics, "delong": estimate}
    held = HeldoutChoice(**choice, agreement=0.7, difference=metrics, delong_difference=estimate)
    shared: dict[str, Any] = {"attack": "sima", "row": "plain"}
    group = {"groups": 4, "group": 1, "low": 0.1, "high": 0.2, "members": 3, "heldout": 0, "timestep": 50, "drop": 0.0}
    cell = PaperCell(value=0.8, timestep=50)
    paper = PaperRow(
        **shared,
        drop=0.0,
        **dict.fromkeys(("auroc", "asr", "tpr_at_1pct_fpr"), cell),
        by_distortion=(PaperGroup(groups=2, group=1, auroc=cell),),
    )
    inference = DatasetInference(p_value=1e-300, statistic=9.0, tests=20, detectable=0.6, members=3, heldout=4)
    told = Telltale(feature="class", kind="1", members=0.9, heldout=0.2, auroc=None, p_value=0.001)
    control = BlindControl(features=("class",), auroc=estimate, inference=inference, p_value=0.002, told_by=(told,))
    row = RelativeRow(attack="sima", heldout_choice=held, reference=estimate, members_lower=0.75, heldout_lower=0.5)
    relative = Relative(target="4", fingerprint="def", members=3, heldout=4, left_out=1, rows=(row,))
    sample = ScoredSample(sample_id="members-000000/a", attack="sima", score=3.0, heldout_above=0, bound=0.53)
    return Results(
        fingerprint="abc",
        inputs={"shards": "1", "split": "2", "target": "3"},
        members=3,
        heldout=4,
        expected=8,
        rejected={"decode: no image": 1},
        distortion_measured=5,
        distortion_estimate=DistortionEstimate(
            samples=2, slope=0.9, intercept=-3.0, correlation=0.9, residual=0.5, spread=2.0
        ),
        stability=Stability(correlation=0.9, overlap=0.8, probes=4),
        repeats=10,
        bootstrap=1000,
        confidence=0.95,
        headline=(Headline(**shared, heldout_choice=held, oracle=Choice(**choice)),),
        paper=(paper,),
        combined=Combined(features=5, metrics=metrics, delong=estimate, inference=inference),
        blind=control,
        names=control,
        relative=relative,
        leakage=Leakage(attack="sima", timestep=0, correlation=estimate),
        by_timestep=(Point(attack="sima", mask="none", drop=0.0, timestep=0, auroc=0.1 + 0.2),),
        by_drop=(Point(attack="sima", mask="random", drop=0.05, timestep=0, auroc=1 / 3),),
        by_bin=(BinPoint(attack="sima", bin=0, timestep=None, auroc=estimate),),
        by_distortion=(DistortionGroup(**shared, **group, auroc=None),),
        roc=(RocPoint(**shared, fpr=0.01, tpr=0.2),),
        at_risk=(sample,),
        highest_heldout=(sample,),
        warnings=("few samples",),
        versions={"numpy": "2"},
    )


def keys_of(value: object) -> set[str]:
    """Every key of the models in a value; keys of free mappings are none of the schema's."""
    if isinstance(value, BaseModel):
        names = set(type(value).model_fields)
        return names.union(*(keys_of(getattr(value, name)) for name in names))
    return set().union(*map(keys_of, value)) if isinstance(value, tuple) else set()


def test_json_is_read_back_as_it_was() -> None:
    written = example().model_dump_json(indent=1)
    assert Results.model_validate_json(written) == example()
    assert Results.model_validate_json(written).model_dump_json(indent=1) == written


def test_an_unknown_key_is_rejected_at_every_level() -> None:
    paths = (
        *((), ("headline", 0), ("headline", 0, "heldout_choice", "difference", "auroc"), ("headline", 0, "oracle")),
        *(
            ("at_risk", 0),
            ("by_bin", 0),
            ("combined", "inference"),
            ("leakage",),
            ("stability",),
            ("distortion_estimate",),
        ),
        *(("blind",), ("names", "told_by", 0), ("relative",), ("relative", "rows", 0)),
        *(("paper", 0), ("paper", 0, "auroc"), ("paper", 0, "by_distortion", 0)),
    )
    for path in paths:
        content = example().model_dump(mode="json")
        inner = content
        for step in path:
            inner = inner[step]
        inner["surprise"] = 1
        with pytest.raises(ValidationError, match="surprise"):
            Results.model_validate(content)


def test_a_missing_key_is_rejected() -> None:
    for name in set(Results.model_fields) - {"format", "relative"}:
        content = example().model_dump(mode="json")
        del content[name]
        with pytest.raises(ValidationError, match=name):
            Results.model_validate(content)


def test_what_may_be_absent_is_written_as_null() -> None:
    plain = example().headline[0]
    held = plain.heldout_choice.model_copy(update={"difference": None})
    headline = plain.model_copy(update={"heldout_choice": held, "oracle": None})
    bare = example().model_copy(update={"headline": (headline,), "stability": None, "distortion_estimate": None})
    written = bare.model_dump(mode="json")
    assert written["stability"] is written["distortion_estimate"] is written["headline"][0]["oracle"] is None
    assert Results.model_validate_json(bare.model_dump_json()) == bare


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("headline", 0, "row"), "best"), (("by_drop", 0, "mask"), "middle"), (("by_distortion", 0, "groups"), 3)),
        *((("paper", 0, "row"), "chosen"), (("format",), 4)),
    ],
)
def test_names_outside_the_schema_are_rejected(path: tuple[Any, ...], value: Any) -> None:
    content = example().model_dump(mode="json")
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(ValidationError, match=path[-1]):
        Results.model_validate(content)


def test_results_of_before_there_was_a_reference_are_read() -> None:
    content = example().model_dump(mode="json")
    del content["relative"]
    assert Results.model_validate(content) == example().model_copy(update={"relative": None})


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        example().members = 5  # type: ignore[misc]


def test_the_schema_names_every_key_that_is_written() -> None:
    schema = Results.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    named = {key for part in parts for key in part["properties"]}
    assert named == keys_of(example())
    assert all(part["additionalProperties"] is False for part in parts)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_described_or_self_evident(model: type[Record]) -> None:
    if model is not Record:
        assert model.__doc__
    undescribed = {name for name, field in model.model_fields.items() if not field.description}
    assert undescribed <= SELF_EVIDENT


def test_a_number_that_so_few_samples_do_not_define_is_null_and_is_read_again() -> None:
    unknown = Estimate(value=math.nan, low=math.nan, high=math.inf)
    leakage = Leakage(attack="sima", timestep=0, correlation=unknown)
    encoded = example().model_copy(update={"leakage": leakage}).model_dump_json()
    assert json.loads(encoded)["leakage"]["correlation"] == {"value": None, "low": None, "high": None}
    found = Results.model_validate_json(encoded)
    assert math.isnan(found.leakage.correlation.value)
    assert found.model_dump_json() == encoded
