"""The blind control: every kind of difference is found by name, and none that is not there."""

from collections.abc import Callable
from math import comb

import numpy as np
import pytest

from ldm_scale.analysis import blind
from ldm_scale.analysis.blind import Feature, control, controlled, name_features, row_features
from ldm_scale.analysis.results import BlindControl
from ldm_scale.config.audit import AnalysisConfig
from ldm_scale.schema import BLIND, PLAIN

NAMES = (*BLIND, "mean influence", "deviation of influence", "distortion")
COUNT = 120
MEMBER = np.arange(COUNT) % 3 == 0
CONFIG = AnalysisConfig(repeats=2)


def plain(seed: int) -> dict[str, np.ndarray]:
    """Columns of samples whose sides do not differ."""
    rng = np.random.default_rng(seed)
    values = dict(zip(NAMES, rng.standard_normal((len(NAMES), COUNT)), strict=True))
    kinds = {"class": rng.integers(0, 3, COUNT), "format": rng.integers(0, 2, COUNT)}
    sizes = dict.fromkeys(("width", "height"), rng.choice([256, 512], COUNT))
    return {**values, **kinds, **sizes, "captions": np.ones(COUNT), "caption length": rng.integers(20, 60, COUNT)}


def judged(columns: dict[str, np.ndarray], seed: int = 0) -> BlindControl:
    found = control(row_features([*columns], np.stack([*columns.values()], axis=1)), MEMBER, CONFIG, seed)
    assert found is not None
    return found


def moved(column: np.ndarray) -> np.ndarray:
    return column + 1.5 * MEMBER


def spread(column: np.ndarray) -> np.ndarray:
    return column * (1 + 3 * MEMBER)


CHANGES: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
    ("class", lambda column: np.where(MEMBER, 1, 0)),
    ("class", lambda column: np.where(MEMBER, np.nan, column)),
    ("captions", lambda column: np.where(MEMBER, 1, 0)),
    ("caption length", lambda column: column + 30 * MEMBER),
    ("width", lambda column: np.where(MEMBER, 256, column)),
    ("format", lambda column: np.where(MEMBER, 0, column)),
    ("bytes", moved),
    ("bytes", spread),
    ("red", moved),
    ("blue deviation", moved),
    ("sharpness", moved),
    ("latent mean", moved),
    ("latent deviation", spread),
    ("mean influence", moved),
    ("distortion", moved),
]


@pytest.mark.parametrize(("feature", "change"), CHANGES)
def test_the_feature_that_tells_the_sides_apart_is_found_and_named(
    feature: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    columns = plain(2)
    found = judged({**columns, feature: change(columns[feature]).astype(float)})
    assert found.p_value < 1e-3
    assert found.told_by[0].feature == feature


def test_what_is_not_there_is_not_found() -> None:
    found = judged(plain(2))
    assert (found.p_value > 0.05, found.told_by) == (True, ())
    assert found.auroc.low < 0.5 < found.auroc.high
    assert found.features == NAMES


def test_kinds_are_compared_by_fishers_test_and_quantities_by_pairs() -> None:
    """By hand: of all ways to choose 4 members of 12, those as far from even or farther; and each pair of values."""
    member = np.arange(12) < 4
    kinds = Feature.kind("format", ["a" if number in (0, 1, 2, 3, 7) else "b" for number in range(12)])
    values = np.array([5.0, 7, 7, 9, 1, 2, 3, 4, 6, 7, 0, 2])
    found = control([kinds, Feature.quantity("bytes", values)], member, CONFIG, 0)
    assert found is not None
    by_kind = next(told for told in found.told_by if told.kind == "a")
    assert (by_kind.members, by_kind.heldout) == (1, 1 / 8)
    as_likely = [k for k in range(5) if comb(5, k) * comb(7, 4 - k) <= comb(5, 4)]
    exact = sum(comb(5, k) * comb(7, 4 - k) for k in as_likely) / comb(12, 4)
    # Two kinds, two features.
    assert by_kind.p_value == pytest.approx(4 * exact)
    pairs = [(a > b) + (a == b) / 2 for a in values[:4] for b in values[4:]]
    told = blind._telltales(Feature.quantity("bytes", values), member)[0]
    assert (told.auroc, told.members, told.heldout) == (np.mean(pairs), 7, 2.5)


def test_two_features_may_tell_together_what_neither_tells() -> None:
    red, green = (plain(3)[name] for name in ("red", "green"))
    found = judged({"red": red - 0.5 * MEMBER, "green": red + 0.5 * green + 0.5 * MEMBER})
    assert (found.told_by, found.inference.p_value < 0.001, found.auroc.low > 0.6) == ((), True, True)


def test_samples_that_differ_in_nothing_have_no_control() -> None:
    assert (
        control([Feature.quantity("width", np.ones(COUNT)), Feature.kind("class", ["1"] * COUNT)], MEMBER, CONFIG, 0)
        is None
    )


def test_sides_that_one_feature_tells_without_exception_have_a_p_value() -> None:
    """Scores differ between the sides alone, so that no t-test of them has a variance."""
    found = control([Feature.kind("class", ["1" if one else "0" for one in MEMBER])], MEMBER, CONFIG, 0)
    assert found is not None
    assert found.p_value < 1e-12


NUMBERS = np.random.default_rng(0).permutation(10_000)[:COUNT]


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        # Interleaved: members have the numbers that end with 0 or 5.
        (lambda i: f"{5 * NUMBERS[i] + (0 if MEMBER[i] else 1 + i % 4)}", "last digit"),
        (lambda i: f"IMG_{NUMBERS[i] + 10_000 * MEMBER[i]:05d}", "number"),
        (lambda i: f"photo {NUMBERS[i]:05d}_2{MEMBER[i]:d}190304T{i % 24:02d}", "number"),
        (lambda i: f"{'IMG' if MEMBER[i] else 'DSC'}_{NUMBERS[i]:05d}", "beginning"),
        (lambda i: f"a_{'1' * (2 - MEMBER[i])}", "digits"),
        (lambda i: "a" * (8 + i % 2 + MEMBER[i]), "length"),
    ],
)
def test_a_pattern_of_names_is_found(name: Callable[[int], str], feature: str) -> None:
    found = control(name_features([f"s/{'ab'[i % 2]}/{name(i)}" for i in range(COUNT)]), MEMBER, CONFIG, 0)
    assert found is not None
    assert found.p_value < 1e-3
    assert feature in {told.feature for told in found.told_by}


def test_folders_above_a_file_are_none_of_its_name() -> None:
    ids = [
        f"{'m' if MEMBER[i] else 'h'}-000000/{'suspect' if MEMBER[i] else 'other'}/{NUMBERS[i]}" for i in range(COUNT)
    ]
    found = control(name_features(ids), MEMBER, CONFIG, 0)
    assert found is not None
    assert (found.p_value > 0.05, found.told_by) == (True, ())


def test_classes_and_formats_are_kinds_with_their_names() -> None:
    values = np.array([[7.0, 0, 3], [np.nan, 2, 4]])
    label, kind, width = row_features(["class", "format", "width"], values)
    assert (sorted(label.kinds), sorted(kind.kinds), width.kinds) == (["7", "none"], ["JPEG", "WEBP"], ())
    assert [label.kinds[int(value)] for value in label.values] == ["7", "none"]
    # Whatever lies in a row.
    (odd,) = row_features(["format"], np.array([[np.inf], [99.0], [1.0]]))
    assert sorted(odd.kinds) == ["99", "PNG", "none"]


def test_kinds_beyond_the_most_frequent_share_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "KINDS", 3)
    shapes = Feature.kind("class", [*"aaabbcde"]).shapes()
    assert shapes.shape == (8, 3)
    # The fourth shares the first one's, and so on.
    assert shapes.argmax(axis=1).tolist() == [0, 0, 0, 1, 1, 2, 0, 1]


def test_a_large_side_is_drawn_from_and_a_small_one_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "FITTED", 50)
    some = controlled(MEMBER, 0)
    assert (MEMBER[some].sum(), (~MEMBER[some]).sum(), sorted(set(some)) == some.tolist()) == (40, 50, True)


def size(simulations: int, names: tuple[str, ...], repeats: int) -> float:
    """The share of controls with p below 0.05 whose sides do not differ."""
    below = 0
    for seed in range(simulations):
        columns = plain(seed + 100)
        features = row_features(names, np.stack([columns[name] for name in names], axis=1))
        found = control(features, MEMBER, AnalysisConfig(repeats=repeats), seed)
        below += found is not None and found.p_value < 0.05
    return below / simulations


def test_at_most_a_twentieth_of_even_sides_are_told_apart() -> None:
    assert size(60, ("class", "caption length", "bytes", "red"), 1) <= 0.05 + 2 * (0.05 * 0.95 / 60) ** 0.5


@pytest.mark.slow
def test_at_most_a_twentieth_of_even_sides_are_told_apart_by_all_features() -> None:
    assert size(400, PLAIN, 10) <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
