"""Where a check runs: on the CPU, which proves the check itself, and on cuda if there is a GPU."""

import pytest
import torch

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU: torch.cuda.is_available() is false")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `gpu` says why it is skipped if there is none."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(NO_GPU)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
