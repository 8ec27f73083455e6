"""The results of a run, and their headline rows by attack."""

from pydantic import ValidationError

from ldm_scale.analysis.results import Headline, Results
from ldm_scale.errors import UsageError
from ldm_scale.files.reductions import Reduction


def read_results(reduction: Reduction) -> Results:
    """results.json of a reduction; raises UsageError if it is of another format."""
    try:
        return Results.model_validate_json(reduction.read_results())
    except ValidationError as error:
        raise UsageError(
            f"{reduction.folder} holds no results ({error.errors()[0]['msg']}); run `ldm-scale reduce RUN` first"
        ) from None


def attacks_of(results: Results) -> list[str]:
    """The attacks, in the order of the headline."""
    return list(dict.fromkeys(row.attack for row in results.headline))


def rows_of(results: Results, attack: str) -> dict[str, Headline]:
    """The headline rows of one attack, by row name."""
    return {row.row: row for row in results.headline if row.attack == attack}
