"""Generators are pure functions of seed, sample and purpose."""

import pytest

from ldm_scale.randomness import keyed_generator


def first(seed: int, sample_id: str, purpose: str) -> int:
    return int(keyed_generator(seed, sample_id, purpose).integers(2**62))


def test_the_same_key_gives_the_same_draw() -> None:
    assert first(3, "a/b", "noise") == first(3, "a/b", "noise")


def test_the_parts_of_a_key_do_not_run_into_each_other() -> None:
    keys = [(1, "1a", "b"), (11, "a", "b"), (1, "1", "ab"), (1, "1ab", ""), (-1, "1a", "b")]
    assert len({first(*key) for key in keys}) == len(keys)


def test_known_draws_stay_as_they_are() -> None:
    # A change here changes every run that was ever made.
    assert keyed_generator(0, "members-000000/a", "distortion").random() == pytest.approx(
        0.45513707495976585, rel=1e-12
    )
