"""Attacks by name."""

import re

import pytest

from ldm_scale.attacks.registry import known_attacks, make_attack, resolve_options
from ldm_scale.attacks.sima import SimA
from ldm_scale.errors import UsageError


def test_sima_is_known() -> None:
    assert "sima" in known_attacks()


def test_options_are_parsed_and_resolved() -> None:
    attack = make_attack("sima", {"timesteps": "0:30:10"})
    assert attack == SimA(timesteps=(0, 10, 20))
    assert resolve_options(attack) == {"timesteps": (0, 10, 20), "p": 4.0}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simma", {}, "unknown attack 'simma'; did you mean 'sima'?"),
        ("sima", {"steps": 3}, "attacks.sima.steps: "),
        ("sima", {"timesteps": "zero"}, "attacks.sima.timesteps: "),
    ],
)
def test_what_cannot_be_used_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make_attack(name, options)
