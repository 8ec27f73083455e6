"""Unknown names are answered with the nearest known one."""

import pytest

from ldm_scale.attacks.registry import known_attacks, make_attack
from ldm_scale.errors import UsageError, unknown_name


def test_a_near_name_is_suggested() -> None:
    error = unknown_name("colour", "gren", ["red", "green", "blue"])
    assert isinstance(error, UsageError)
    assert str(error) == "unknown colour 'gren'; did you mean 'green'?"


def test_without_a_near_name_all_are_listed_in_order() -> None:
    assert str(unknown_name("colour", "xyz", iter(["red", "blue"]))) == "unknown colour 'xyz'; known: blue, red"


def test_installed_attacks_are_known_by_their_entry_points() -> None:
    assert "sima" in known_attacks()
    assert make_attack("sima", {"timesteps": "0:30:10"}).timesteps == (0, 10, 20)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simo", {}, "unknown attack 'simo'; did you mean 'sima'"),
        ("sima", {"timestep": 3}, r"attacks\.sima\.timestep: "),
        ("sima", {"p": "four"}, r"attacks\.sima\.p: "),
        ("sima", {"timesteps": "x"}, r"attacks\.sima\.timesteps: "),
    ],
)
def test_an_attack_that_cannot_be_made_is_a_usage_error(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_attack(name, options)
