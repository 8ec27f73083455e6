"""The headline rows of the results, by attack."""

from ldm_scale.analysis.results import Headline, Results


def attacks_of(results: Results) -> list[str]:
    """The attacks, in the order of the headline."""
    return list(dict.fromkeys(row.attack for row in results.headline))


def rows_of(results: Results, attack: str) -> dict[str, Headline]:
    """The headline rows of one attack, by row name."""
    return {row.row: row for row in results.headline if row.attack == attack}
