"""A finished run in the experiment tracker that a team has: Weights & Biases, MLflow or TensorBoard, if installed."""

from collections.abc import Callable
from dataclasses import dataclass

from ldm_scale.analysis.results import Results
from ldm_scale.config.values import flatten, spell
from ldm_scale.errors import UsageError
from ldm_scale.files.reductions import REPORT
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.report.headline import read_results

PROJECT = "ldm_scale"


@dataclass(frozen=True)
class Tracked:
    """What a tracker is given of a run; place: its directory."""

    name: str
    place: str
    options: dict[str, str]
    numbers: dict[str, float]
    page: str


def numbers_of(results: Results) -> dict[str, float]:
    """The headline's metrics, dataset inference and the blind control, by names with slashes."""
    found = {
        f"{row.attack}/{row.row}/{name}": value["value"]
        for row in results.headline
        for name, value in row.heldout_choice.metrics.model_dump().items()
    }
    found |= {f"combined/{name}": value["value"] for name, value in results.combined.metrics.model_dump().items()}
    found["p_value"] = results.combined.inference.p_value
    if results.blind is not None:
        found |= {"blind/auroc": results.blind.auroc.value, "blind/p_value": results.blind.p_value}
    return found


def _wandb(tracked: Tracked) -> None:
    import wandb

    run = wandb.init(project=PROJECT, name=tracked.name, config=tracked.options)
    run.log({**tracked.numbers, "report": wandb.Html(tracked.page)})
    run.finish()


def _mlflow(tracked: Tracked) -> None:
    import mlflow

    mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=tracked.name):
        mlflow.log_params(tracked.options)
        mlflow.log_metrics(tracked.numbers)
        mlflow.log_text(tracked.page, "report.html")


def _tensorboard(tracked: Tracked) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(f"{tracked.place}/tensorboard") as writer:
        writer.add_text("options", "\n".join(f"    {key}: {value}" for key, value in tracked.options.items()))
        for key, value in tracked.numbers.items():
            writer.add_scalar(key, value)


# Each loads its tracker, which need not be installed.
TRACKERS: dict[str, Callable[[Tracked], None]] = {"mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}


def track(run: RunDirectory, tracker: str) -> None:
    """Give a finished run's options, headline numbers and page to a tracker, which finds its server in the environment.

    Raises:
        UsageError: The tracker is not installed, or the run has no results.
        FileNotFoundError: The run has no page.
    """
    reduction, record = run.reduction(), run.read_record()
    options = {key: spell(value) for key, value in flatten(record.config.model_dump(mode="json")).items()}
    page = (reduction.folder / REPORT).read_text()
    tracked = Tracked(record.fingerprint[:12], run.root.uri, options, numbers_of(read_results(reduction)), page)
    try:
        TRACKERS[tracker](tracked)
    except ModuleNotFoundError as error:
        raise UsageError(f"--track {tracker}: {error}; install it: pip install {tracker}") from None
