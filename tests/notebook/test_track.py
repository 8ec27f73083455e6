"""A run in experiment trackers, of which the tests have stand-ins that hold to the parts of their interfaces in use."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ldm_scale.cli import TRACKERS as NAMES
from ldm_scale.errors import UsageError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.notebook.track import TRACKERS, numbers_of, track
from ldm_scale.report.headline import read_results
from tests.report.test_report import page, run  # noqa: F401


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-ins were given, by what it is."""
    found: dict[str, Any] = {}

    class Writer:
        def __init__(self, place: str) -> None:
            found["place"] = place

        def __enter__(self) -> "Writer":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def add_text(self, tag: str, text: str) -> None:
            found["options"] = dict(line.strip().split(": ", 1) for line in text.splitlines())

        def add_scalar(self, tag: str, value: float) -> None:
            found.setdefault("numbers", {})[tag] = value

    def init(project: str, name: str, config: dict[str, str]) -> SimpleNamespace:
        found["options"] = config
        return SimpleNamespace(log=log, finish=lambda: None)

    def log(values: dict[str, Any]) -> None:
        found["page"] = values.pop("report")
        found["numbers"] = values

    @contextmanager
    def start_run(run_name: str) -> Any:
        yield

    mlflow = {
        "set_experiment": lambda name: None,
        "start_run": start_run,
        "log_params": lambda options: found.update(options=options),
        "log_metrics": lambda numbers: found.update(numbers=numbers),
        "log_text": lambda text, name: found.update(page=text),
    }
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Html=str))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**mlflow))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return found


@pytest.mark.parametrize("tracker", NAMES)
def test_a_tracker_gets_options_numbers_and_page(
    tracker: str,
    run: RunDirectory,  # noqa: F811
    page: str,  # noqa: F811
    given: dict[str, Any],
) -> None:
    track(run, tracker)
    results = read_results(run.reduction())
    assert given["options"]["masks.bins"] == "20"
    assert given["numbers"] == numbers_of(results)
    assert given["numbers"]["sima/plain/auroc"] == results.headline[0].heldout_choice.metrics.auroc.value
    assert given.get("page", page) == page


def test_a_tracker_that_is_not_installed_is_named(
    run: RunDirectory,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(TRACKERS) == set(NAMES)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"^--track wandb: .*; install it: pip install wandb$"):
        track(run, "wandb")
