"""The authors' procedure: what their scripts have (facts by row of their tables), and what was given over it."""

import pytest

from ldm_scale.attacks.registry import make_attack, resolve_options
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.config.published import PUBLISHED
from ldm_scale.config.values import flatten, merge

# SimA's timesteps, probes, distortion and its rank, latents of attack and geometry, captions, crop and filter.
FACTS = {
    "cifar10": (range(0, 300, 10), 16, "truncated", 50, "mode", "mode", "first", (None, None)),
    "celeba": (range(0, 300, 10), 16, "truncated", 50, "mode", "mode", "first", (140, "bilinear")),
    "imagenet": (range(0, 300, 10), 8, "truncated", 20, "mode", "mode", "first", (None, "bicubic")),
    "pokemon": (range(0, 200, 10), 8, "slq", None, "sample", "mode", "first", (None, "bilinear")),
    "coco": (range(0, 200, 10), 8, "slq", None, "sample", "mode", "random", (None, "bilinear")),
    "flickr": (range(0, 200, 10), 8, "slq", None, "sample", "mode", "random", (None, "bilinear")),
}


def config_of(name: str, **over: object) -> AuditConfig:
    config = build(AuditConfig, merge(PUBLISHED[name].recipe, {"out": "o", "shards": "s", "target": "t", **over}))
    resolved = {name: resolve_options(make_attack(name, options)) for name, options in config.attacks.items()}
    return config.model_copy(update={"attacks": resolved})


@pytest.mark.parametrize("name", FACTS)
def test_the_recipe_is_what_their_scripts_have(name: str) -> None:
    times, probes, distortion, rank, latent, measured_at, captions, images = FACTS[name]
    config = config_of(name)
    geometry = config.geometry
    attacks = {attack: options["timesteps"] for attack, options in config.attacks.items()}
    published = {"pfami_published": tuple(range(0, 500, 50))} if distortion == "slq" else {}
    assert attacks == {
        **dict.fromkeys(("sima", "loss", "pia"), tuple(times)),
        "secmi": tuple(range(0, 190, 10)),
        **published,
    }
    assert (geometry.influence, geometry.probes, geometry.distortion) == ("hutchinson", probes, distortion)
    assert rank in (None, geometry.rank)
    assert (config.latent, geometry.latent, config.captions) == (latent, measured_at, captions)
    assert images in ((None, None), (config.images.crop, config.images.filter))
    assert (config.images.size, config.precision, config.conditioning) == (None, "float32", "sample")
    assert (config.analysis.drop, geometry.distortion_share, config.masks.ranking) == (0.4, 1, None)


def test_every_row_has_departures_and_no_other_row_is_published() -> None:
    assert PUBLISHED.keys() == FACTS.keys()
    assert all(procedure.departures for procedure in PUBLISHED.values())


def test_options_given_over_the_recipe_are_departures() -> None:
    procedure, theirs = PUBLISHED["coco"], config_of("coco").attacks
    assert [*procedure.overridden(theirs, config_of("coco").model_dump())] == []
    over = config_of("coco", precision="bfloat16", images={"crop": 40}, geometry={"distortion_share": 0.5}, seed=3)
    given = over.model_dump()
    del given["attacks"]["loss"]
    given["attacks"] |= {"epsilon": {"p": 4.0}, "pia": theirs["pia"] | {"p": 2.0}}
    assert {*procedure.overridden(theirs, given)} == {
        "attacks: loss, which theirs has, is not run",
        "attacks.pia.p is 2, theirs 4",
        "precision is bfloat16, theirs float32",
        "images.crop is 40, theirs unset",
        "geometry.distortion_share is 0.5, theirs 1",
    }


def test_nested_values_are_flat_by_the_names_of_options() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": (2,)}, "e": None}) == {"a.b.c": 1, "a.d": (2,), "e": None}
