"""What was audited and how, as pairs of a term and its description."""

import itertools
import math

from ldm_scale.analysis.results import Results
from ldm_scale.config import GeometryConfig
from ldm_scale.rundir import RunRecord

# Hex digits of a digest that are shown.
SHORT = 12


def _timesteps(steps: tuple[int, ...]) -> str:
    if len(steps) == 1:
        return f"timestep {steps[0]}"
    gaps = {after - before for before, after in itertools.pairwise(steps)}
    if len(steps) > 3 and len(gaps) == 1:
        return f"{len(steps)} timesteps {steps[0]}, {steps[1]}, ..., {steps[-1]}"
    return f"{len(steps)} timesteps {', '.join(map(str, steps))}"


def _side(audited: int, expected: int) -> str:
    return f"{audited:,}" if audited == expected else f"{audited:,} of {expected:,}"


def _influence(geometry: GeometryConfig, shape: tuple[int, ...]) -> str:
    probes = "" if geometry.influence == "exact" else f", {geometry.probes} probes a sample"
    return f"{geometry.influence}{probes}; latent {' x '.join(map(str, shape))} = {math.prod(shape):,} dimensions"


def _distortion(results: Results, geometry: GeometryConfig) -> str:
    if not results.distortion_measured:
        return "not measured"
    rows = results.members + results.heldout
    return (
        f"measured on {results.distortion_measured:,} of {rows:,} samples (geometry.distortion: {geometry.distortion})"
    )


def missing(results: Results) -> int:
    """Samples that have neither a row nor a reject."""
    return max(results.expected - results.members - results.heldout - sum(results.rejected.values()), 0)


def facts(results: Results, record: RunRecord) -> list[tuple[str, str]]:
    """What was audited, on which samples, and how."""
    config = record.config
    inputs = {
        "shards": config.shards,
        "target": config.target,
        "split": config.split or "by folder, members/ and heldout/",
    }
    named = {name: f"{text} (SHA-256 {results.inputs[name][:SHORT]})" for name, text in inputs.items()}
    sides = f"{_side(results.members, record.members)} members, {_side(results.heldout, record.heldout)} held-out"
    seen = [f"{name}: {_timesteps(steps)}" for name, steps in record.timesteps.items()]
    return [
        ("Target", named["target"]),
        ("Shards", named["shards"]),
        ("Split", named["split"]),
        ("Audited", f"{sides}; {sum(results.rejected.values()):,} rejected"),
        ("Attacks" if len(seen) > 1 else "Attack", "; ".join(seen)),
        ("Influence", _influence(config.geometry, record.latent_shape)),
        ("Distortion", _distortion(results, config.geometry)),
        ("Seed", str(config.seed)),
        ("Fingerprint", results.fingerprint[:SHORT]),
    ]
