"""Where a check runs: on the CPU, which proves the check itself, and on cuda if there is a GPU."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU: torch.cuda.is_available() is false")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `gpu` says why it is skipped if there is none; on the CPU one case proves each check."""
    proved: set[str] = set()
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(NO_GPU)
        elif item.path.parent == HERE:
            check = item.nodeid.partition("[")[0]
            if check in proved:
                item.add_marker("slow")
            proved.add(check)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
