"""Attacks by name."""

import argparse
import re
from pathlib import Path

import pytest

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.installed import known_attacks
from ldm_scale.attacks.pfami import PFAMI
from ldm_scale.attacks.registry import make_attack, resolve_options
from ldm_scale.attacks.sima import SimA
from ldm_scale.cli import main
from ldm_scale.errors import UsageError
from ldm_scale.flags import add_attack_flags
from tests.attacks.cases import Case, latents

THIRD_PARTY = """
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Latent:
    '''S_t = factor * z, which asks the denoiser nothing.'''

    timesteps: tuple[int, ...] = (0, 5)
    p: float = 1.0
    factor: float = 2.0

    def __post_init__(self):
        if self.factor == 0:
            raise ValueError("factor: zero tells nothing")

    @property
    def evaluated(self):
        return ()

    def vectors(self, evaluations):
        return torch.stack([self.factor * evaluations.latents for _ in self.timesteps])
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution of someone else's, with one attack."""
    info = tmp_path / "someone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ldm_scale.attacks]\nlatent = someones_attack:Latent\n")
    (tmp_path / "someones_attack.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path)


def test_options_are_parsed_and_resolved() -> None:
    attack = make_attack("sima", {"timesteps": "0:30:10"})
    assert attack == SimA(timesteps=(0, 10, 20))
    assert resolve_options(attack) == {"timesteps": (0, 10, 20), "p": 4.0}


def test_fractions_are_parsed() -> None:
    attack = make_attack("pfami", {"timesteps": "0,50", "crops": "0.95, 0.9"})
    assert attack == PFAMI(timesteps=(0, 50), crops=(0.95, 0.9))
    assert resolve_options(attack) == {"timesteps": (0, 50), "p": 2.0, "crops": (0.95, 0.9)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simma", {}, "unknown attack 'simma'; did you mean 'sima'?"),
        ("secmii", {}, "unknown attack 'secmii'; did you mean 'secmi'?"),
        ("pfamy", {}, "unknown attack 'pfamy'; did you mean 'pfami'?"),
        ("sima", {"steps": 3}, "attacks.sima.steps: "),
        ("sima", {"p": "four"}, "attacks.sima.p: "),
        ("sima", {"timesteps": "zero"}, "attacks.sima.timesteps: 'zero' is no list"),
        ("pia", {"timesteps": "0,5,0"}, "attacks.pia: timesteps: 0 is given twice"),
        ("secmi", {"timesteps": "0,5"}, "attacks.secmi: timesteps: 5 is not among 0, 10, 20, ..."),
        ("secmi", {"step": "ten"}, "attacks.secmi.step: "),
        ("pfami", {"crops": "0.9,much"}, "attacks.pfami.crops: could not convert"),
        ("pfami", {"crops": "0.9,2"}, "attacks.pfami: crops: 2.0 is not a share of the side"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match="^" + re.escape(message)):
        make_attack(name, options)


@pytest.mark.usefixtures("third_party")
def test_a_third_partys_attack_is_known_by_its_entry_point() -> None:
    assert "latent" in known_attacks()
    attack = make_attack("latent", {"factor": "3"})
    assert isinstance(attack, Attack)
    assert resolve_options(attack) == {"timesteps": (0, 5), "p": 1.0, "factor": 3.0}
    z = latents()
    assert (attack.vectors(Case("linear", "epsilon").evaluations(z)) == 3 * z).all()
    with pytest.raises(UsageError, match="'latnt'; did you mean 'latent'"):
        make_attack("latnt", {})
    with pytest.raises(UsageError, match=r"^attacks\.latent: factor: zero tells nothing$"):
        make_attack("latent", {"factor": 0})


@pytest.mark.usefixtures("third_party")
def test_a_third_partys_options_are_flags_though_it_describes_none() -> None:
    parser = argparse.ArgumentParser()
    add_attack_flags(parser, {})
    (factor,) = (action for action in parser._actions if action.dest == "attacks.latent.factor")
    assert (factor.option_strings, factor.metavar, factor.help) == (["--attacks.latent.factor"], "FLOAT", "[2]")


@pytest.mark.parametrize("words", ["audit --attacks latent", "audit --attacks.sima.p 3", "list attacks"])
@pytest.mark.usefixtures("third_party")
def test_an_attack_that_cannot_be_loaded_is_one_line(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = tmp_path / "someone-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("someones_attack:", "someones_broken_attack:"))
    (tmp_path / "someones_broken_attack.py").write_text("raise RuntimeError('built for another torch')")
    out = ["--out", str(tmp_path / "run")] if "--attacks" in words else []
    try:
        status = main([*words.split(), *out])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "someones_broken_attack:Latent" in line
    assert "built for another torch" in line
    assert not (tmp_path / "run").exists()


def test_without_the_third_party_its_attack_is_unknown() -> None:
    assert "latent" not in known_attacks()
