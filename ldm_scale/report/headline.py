"""The results of a run, and their headline rows by attack."""

from pydantic import ValidationError

from ldm_scale.analysis.results import Headline, Results
from ldm_scale.errors import UsageError
from ldm_scale.files.rundir import RunDirectory

REDUCE = "run `ldm-scale reduce RUN` first"


def read_results(run: RunDirectory) -> Results:
    """results.json.

    Raises:
        UsageError: if it is missing or of another format.
    """
    location = run.root / "results.json"
    if not location.is_file():
        raise UsageError(f"{run.root} has no results.json; {REDUCE}")
    try:
        return Results.model_validate_json(location.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{location} holds no results ({error.errors()[0]['msg']}); {REDUCE}") from None


def attacks_of(results: Results) -> list[str]:
    """The attacks, in the order of the headline."""
    return list(dict.fromkeys(row.attack for row in results.headline))


def rows_of(results: Results, attack: str) -> dict[str, Headline]:
    """The headline rows of one attack, by row name."""
    return {row.row: row for row in results.headline if row.attack == attack}
