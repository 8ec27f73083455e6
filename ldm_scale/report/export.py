"""A report's figures as SVG and its tables as CSV, for those who write about it or go on computing."""

import pandas as pd

from ldm_scale.analysis.results import Results
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.report.headline import read_results
from ldm_scale.report.maps import LatentMaps
from ldm_scale.report.page import plots_of


def tables_of(results: Results) -> dict[str, pd.DataFrame]:
    """Every list of entries in results.json, by its name there: a line an entry, nested keys with dots."""
    lists = {name: value for name, value in results.model_dump(mode="json").items() if isinstance(value, list)}
    tables = {name: pd.json_normalize(value) for name, value in lists.items() if value and isinstance(value[0], dict)}
    # The paper's rows hold a list each, which is a table of its own.
    tables["paper_by_distortion"] = pd.json_normalize(lists["paper"], "by_distortion", ["attack", "row", "drop"])
    tables["paper"] = tables["paper"].drop(columns="by_distortion")
    return {name: table for name, table in tables.items() if len(table)}


def write_files(run: RunDirectory, folder: Location) -> list[Location]:
    """Write figures and tables into a folder, none of them over another file.

    Returns:
        What was written.

    Raises:
        UsageError: The run holds no results.
        ExistsError: A file is there already.
    """
    reduction = run.reduction()
    results, ranking = read_results(reduction), reduction.read_ranking()
    tables = tables_of(results) | {"ranking": ranking.to_pandas()}
    plots = plots_of(results, LatentMaps.of(ranking, run.read_record().latent_shape))
    contents = {f"{name}.svg": plot.svg for name, plot in plots.items()}
    contents |= {f"{name}.csv": table.to_csv(index=False).encode() for name, table in tables.items()}
    for name, content in contents.items():
        (folder / name).create(content)
    return [folder / name for name in contents]
