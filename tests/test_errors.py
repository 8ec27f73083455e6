"""Errors that a user meets: one line, with the nearest known name."""

from ldm_scale.errors import UsageError, unknown_name


def test_a_near_name_is_suggested() -> None:
    error = unknown_name("colour", "gren", ["red", "green", "blue"])
    assert isinstance(error, UsageError)
    assert str(error) == "unknown colour 'gren'; did you mean 'green'?"


def test_without_a_near_name_all_are_listed_in_order() -> None:
    assert str(unknown_name("colour", "xyz", iter(["red", "blue"]))) == "unknown colour 'xyz'; known: blue, red"
