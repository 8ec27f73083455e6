"""What the numbers say, in plain words, computed from the calibrated headline."""

from ldm_scale.analysis.results import Estimate, Headline, Results
from ldm_scale.report.headline import attacks_of, rows_of


def _auroc(row: Headline) -> Estimate:
    return row.calibrated.metrics.auroc


def strongest(results: Results) -> dict[str, Headline]:
    """The headline rows of the attack whose chosen row has the highest calibrated AUROC."""
    candidates = [rows_of(results, attack) for attack in attacks_of(results)]
    return max(candidates, key=lambda rows: _auroc(rows["chosen"]).value)


def _meaning(auroc: Estimate) -> str:
    if auroc.low > 0.5:
        return (
            "The interval lies above chance: the target treats its training images differently, provided that members "
            "and held-out images come from one distribution."
        )
    if auroc.high < 0.5:
        return (
            "The interval lies below chance: members look less like members than held-out images do, so the two sides "
            "differ in something other than training. Check that they come from one distribution."
        )
    return "The interval includes chance: this attack finds no memorisation here, which is no proof that there is none."


def _low_rate(row: Headline, confidence: float) -> str:
    rate = row.calibrated.metrics.tpr_at_1pct_fpr
    return (
        f"Where it may misjudge at most 1% of held-out images, it finds {rate.value:.1%} of the members "
        f"({confidence:.0%} interval {rate.low:.1%} to {rate.high:.1%})."
    )


def _filter(rows: dict[str, Headline]) -> str:
    """What the paper's filter does, beside its two controls."""
    plain, lowest = _auroc(rows["plain"]), _auroc(rows["lowest"])
    share = f"{rows['lowest'].calibrated.drop:.0%}"
    verb = "raises" if lowest.value > plain.value else "lowers" if lowest.value < plain.value else "leaves"
    path = f"at {plain.value:.3f}" if verb == "leaves" else f"from {plain.value:.3f} to {lowest.value:.3f}"
    controls = (
        f"dropping {share} at random gives {_auroc(rows['random']).value:.3f}, "
        f"dropping the highest {share} {_auroc(rows['highest']).value:.3f}"
    )
    caution = ""
    if lowest.low <= plain.value <= lowest.high and plain.low <= lowest.value <= plain.high:
        caution = " Each of the first two lies within the other's interval: do not read the difference as certain."
    subject = f"Dropping the {share} of latent dimensions with the lowest influence"
    return f"{subject} {verb} AUROC {path}; {controls}.{caution}"


def verdict(results: Results) -> tuple[str, str]:
    """How well a random member is told from a random held-out image; and what that means, and what dropping does."""
    rows = strongest(results)
    best, count = rows["chosen"], len(attacks_of(results))
    auroc = _auroc(best)
    attack = f"the attack {best.attack}" if count == 1 else f"{best.attack}, the strongest of {count} attacks,"
    lead = (
        f"An attacker who scores a random member against a random held-out image with {attack} ranks the member "
        f"first in {auroc.value:.0%} of cases (AUROC {auroc.value:.3f}, {results.confidence:.0%} interval "
        f"{auroc.low:.3f} to {auroc.high:.3f}); chance is 50%."
    )
    return lead, " ".join((_meaning(auroc), _low_rate(best, results.confidence), _filter(rows)))


def beats_chance(results: Results, attack: str) -> bool:
    """Whether the interval of an attack's chosen row lies above chance."""
    return _auroc(rows_of(results, attack)["chosen"]).low > 0.5
