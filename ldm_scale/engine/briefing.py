"""What an audit is about to do, as the first lines of its log."""

from collections.abc import Iterator

from ldm_scale.auditor import distortion_estimator
from ldm_scale.costs import decoder_products, denoiser_evaluations
from ldm_scale.engine.plan import Inputs, Plan
from ldm_scale.report.facts import SHORT, describe_conditioning, describe_lora, describe_ranking, list_timesteps
from ldm_scale.report.table import share_label
from ldm_scale.targets.trial import describe

# Columns that the terms of the lines take.
WIDTH = 14


def briefing(inputs: Inputs, plan: Plan) -> Iterator[str]:
    """Target, samples, attacks and geometry with what a sample costs, and where the rows go: a line for each."""
    record = plan.record
    config = record.config
    split = "by folder" if config.split is None else f"by {config.split}"
    terms = [
        ("Target", f"{config.target}: {describe(inputs.target)}"),
        *describe_lora(record),
        *describe_conditioning(config),
        ("Shards", f"{config.shards}: {len(plan.tasks):,} to audit"),
        ("Samples", f"{record.samples:,}: {record.members:,} members, {record.heldout:,} held-out, {split}"),
        ("Attacks", _attacks(inputs, plan)),
        ("Geometry", _geometry(plan)),
        ("Masks", f"{config.masks.bins} bins of influence rank, each sample's own and a random one"),
        *describe_ranking(config),
        ("Seed", str(config.seed)),
        ("Rows", f"{config.out}/samples"),
        ("Fingerprint", record.fingerprint[:SHORT]),
    ]
    return (f"  {term.lower():{WIDTH}}{text}" for term, text in terms)


def _attacks(inputs: Inputs, plan: Plan) -> str:
    target = inputs.target
    asked = denoiser_evaluations(inputs.attacks.values(), target.alphas_cumprod, target.latent_shape)
    named = "; ".join(f"{name}: {list_timesteps(steps)}" for name, steps in plan.record.timesteps.items())
    return f"{named}; {asked:,} denoiser evaluations a sample"


def _geometry(plan: Plan) -> str:
    geometry, dimensions = plan.record.config.geometry, plan.record.dimensions
    probes = "" if geometry.influence == "exact" else f", {geometry.probes} probes"
    estimator = distortion_estimator(geometry, dimensions)
    measured = "" if estimator == "off" else f" on {share_label(geometry.distortion_share)} of the samples"
    products = f"{decoder_products(geometry, dimensions):,.5g} decoder products a sample"
    return f"influence {geometry.influence}{probes}; distortion {estimator}{measured}; {products}"
