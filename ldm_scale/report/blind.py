"""What the blind control says, in plain words: whether the sides are told apart without the denoiser, and by what."""

from collections.abc import Sequence

from ldm_scale.analysis.results import BlindControl, Results, Telltale
from ldm_scale.report.labels import p_label, share_label

# A control with a lower p-value tells the sides apart.
LEVEL = 0.05
# Features that are named, the clearest first.
SHOWN = 4
# What the target's autoencoder says of a sample.
ENCODED = ("latent mean", "latent deviation", "mean influence", "deviation of influence", "distortion")
MISSING = "no blind control: the rows are of a version that kept nothing plain of the samples"


def tells_apart(control: BlindControl | None) -> bool:
    """Whether a control tells members from held-out images."""
    return control is not None and control.p_value < LEVEL


def _of_kinds(told: Sequence[Telltale]) -> str:
    """The kinds of one feature that differ most.

    >>> half = Telltale(feature="class", kind="7", members=0.5, heldout=0.25, auroc=None, p_value=0.01)
    >>> _of_kinds([half])
    'class (7 in 50% of members, 25% of held-out images)'
    """
    name = told[0].feature
    ours = [one.kind for one in told if (one.members, one.heldout) == (1, 0)]
    theirs = [one.kind for one in told if (one.members, one.heldout) == (0, 1)]
    if ours and theirs:
        return f"{name} (every member has {ours[0]}, every held-out image {theirs[0]})"
    shares = (
        f"{one.kind!s} in {share_label(one.members)} of members, {share_label(one.heldout)} of held-out images"
        for one in told
    )
    return f"{name} ({'; '.join(shares)})"


def told_by(control: BlindControl) -> str:
    """The features that tell the sides apart by themselves, by name."""
    found: dict[str, list[Telltale]] = {}
    for one in control.told_by:
        found.setdefault(one.feature, []).append(one)
    quantity = "{0.feature} (AUROC {0.auroc:.3f}; median {0.members:.4g} of members, {0.heldout:.4g} of others)"
    said = [quantity.format(some[0]) if some[0].kind is None else _of_kinds(some) for some in found.values()]
    more = [f"{len(said) - SHOWN} more"] if len(said) > SHOWN else []
    return ", ".join([*said[:SHOWN], *more]) or "several features together, none of them by itself"


def numbers(control: BlindControl | None) -> str:
    """AUROC and p of a control, if there is one."""
    if control is None:
        return "unknown"
    auroc = control.auroc
    return f"AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f}), {p_label(control.p_value)}"


def confounds(blind: BlindControl | None, names: BlindControl | None) -> list[str]:
    """What tells the sides apart without the denoiser, and what that means: a sentence or two each."""
    said = []
    if blind is not None and tells_apart(blind):
        encoded = blind.told_by and all(one.feature in ENCODED for one in blind.told_by)
        training = ", unless the autoencoder was trained on one side alone" if encoded else ""
        said.append(
            f"Members and held-out images differ in {told_by(blind)}: without the denoiser they are told apart with "
            f"{numbers(blind)}. So the p-value proves nothing about training{training}: what the combined AUROC has "
            "beyond this one may be training or not."
        )
    if names is not None and tells_apart(names):
        said.append(
            f"Their names differ, which no model sees, in {told_by(names)}: the sides were collected or numbered "
            "apart. The p-value counts only if the images are known to be alike all the same."
        )
    return said


def warned(results: Results) -> list[str]:
    """The same of a run, and that it says nothing of it if its rows do not."""
    return [*confounds(results.blind, results.names), *([MISSING] if results.blind is None else [])]
