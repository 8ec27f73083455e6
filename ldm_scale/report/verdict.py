"""What the numbers say, in plain words, computed from the headline's held-out choices."""

from collections.abc import Iterable

from ldm_scale.analysis.results import Estimate, Headline, Results, is_trusted
from ldm_scale.report.blind import LEVEL, numbers, tells_apart
from ldm_scale.report.headline import attacks_of, rows_of
from ldm_scale.report.labels import p_label, share_label


def _auroc(row: Headline) -> Estimate:
    return row.heldout_choice.metrics.auroc


def strongest(results: Results, attacks: Iterable[str]) -> dict[str, Headline]:
    """The headline rows of that of the attacks whose chosen row has the highest AUROC by its held-out choice."""
    candidates = [rows_of(results, attack) for attack in attacks]
    return max(candidates, key=lambda rows: _auroc(rows["chosen"]).value)


def _lead(results: Results, best: Headline) -> str:
    auroc, count = _auroc(best), len(attacks_of(results))
    attack = f"the attack {best.attack}" if count == 1 else f"{best.attack}, the strongest of {count} attacks,"
    return (
        f"An attacker who scores a random member against a random held-out image with {attack} ranks the member "
        f"first in {auroc.value:.0%} of cases (AUROC {auroc.value:.3f} in its chosen row, {results.confidence:.0%} "
        f"interval {auroc.low:.3f} to {auroc.high:.3f}); chance is 50%."
    )


def _meaning(auroc: Estimate) -> str:
    if auroc.low > 0.5:
        return (
            "The interval lies above chance: the target treats its training images differently, provided that members "
            "and held-out images come from one distribution."
        )
    if auroc.high < 0.5:
        return (
            "The interval lies below chance: members look less like members than held-out images do. Either the "
            "attack's published direction is wrong on this target, or the two sides differ in something other than "
            "training; check that they come from one distribution."
        )
    return "The interval includes chance: this attack finds no memorisation here, which is no proof that there is none."


def _low_rate(results: Results, row: Headline) -> str:
    """The rate at 1%, if there are held-out images enough for it."""
    if not is_trusted(0.01, results.heldout):
        return ""
    rate = row.heldout_choice.metrics.tpr_at_1pct_fpr
    return (
        f"If it may misjudge at most 1% of held-out images, it finds {rate.value:.1%} of the members "
        f"({results.confidence:.0%} interval {rate.low:.1%} to {rate.high:.1%})."
    )


def _together(results: Results) -> str:
    """What one score from all attacks says, if there are several."""
    if len(attacks_of(results)) == 1:
        return ""
    auroc = results.combined.metrics.auroc
    return (
        "A combined score that learns how to weigh all attacks and timesteps reaches AUROC "
        f"{auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})."
    )


def _reversed(results: Results, best: Headline) -> str:
    """Which of the other attacks point the wrong way."""
    rows = [rows_of(results, attack)["plain"] for attack in attacks_of(results) if attack != best.attack]
    wrong = [f"{row.attack} ({_auroc(row).value:.3f})" for row in rows if _auroc(row).high < 0.5]
    if not wrong:
        return ""
    return (
        f"Below chance with their whole interval, all dimensions kept: {', '.join(wrong)}. There the published "
        "direction is wrong on this target: members score lower than held-out images. Turning a score around after "
        "seeing the answer would be cheating, so it stays as published."
    )


def _levels(rows: dict[str, Headline]) -> str:
    """The AUROC with the paper's filter, beside plain and the two controls."""
    share = share_label(rows["lowest"].heldout_choice.drop)
    level = {name: f"{_auroc(row).value:.3f}" for name, row in rows.items()}
    return (
        f"For {rows['plain'].attack}, AUROC is {level['plain']} with all latent dimensions, {level['lowest']} without "
        f"the {share} of lowest influence, {level['random']} without {share} at random, and {level['highest']} without "
        f"the {share} of highest influence."
    )


def evidence(results: Results) -> tuple[str, str]:
    """The p-value beside its blind control; and what they mean, with what so many images can show."""
    test = results.combined.inference
    lead = (
        f"If the target had never seen the members, their combined scores would be this far above those of held-out "
        f"images with {p_label(test.p_value)}. The blind control, the same test without the denoiser, gives "
        f"{numbers(results.blind)}."
    )
    if tells_apart(results.blind):
        meaning = "The p-value is no evidence of training, as the two sides differ without it."
    elif test.p_value < LEVEL:
        doubt = ", which their names leave open" if tells_apart(results.names) else ""
        meaning = (
            "This is evidence that the set as a whole was trained on, provided that both sides come from one "
            f"distribution{doubt}; it says nothing of any one image."
        )
    else:
        meaning = "This is no evidence that the set was trained on, and no proof that it was not."
    return lead, (
        f"{meaning} So many images ({test.members:,} members, {test.heldout:,} held-out) show training in four of five "
        f"cases if the combined AUROC is {test.detectable:.2f} or more."
    )


def verdict(results: Results) -> list[str]:
    """How well members are distinguished from held-out images; then what that means, and what dropping does.

    One paragraph each. With several attacks, a paragraph between them says what the others and all together find.
    """
    rows = strongest(results, attacks_of(results))
    best = rows["chosen"]
    several = len(attacks_of(results)) > 1
    picked = "The strongest attack was picked after seeing them all, so its numbers are optimistic." if several else ""
    meaning = (_meaning(_auroc(best)), _low_rate(results, best), picked)
    others = (_together(results), _reversed(results, best))
    paragraphs = (" ".join(filter(None, sentences)) for sentences in (meaning, others))
    return [_lead(results, best), *filter(None, paragraphs), _levels(rows)]


def beats_chance(results: Results, attack: str) -> bool:
    """Whether the interval of an attack's chosen row lies above chance."""
    return _auroc(rows_of(results, attack)["chosen"]).low > 0.5
