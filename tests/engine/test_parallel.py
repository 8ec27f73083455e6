"""Tasks on a real Ray: in order, with a last line."""

import pytest

from ldm_scale.engine.parallel import in_parallel

pytestmark = pytest.mark.usefixtures("local_ray")


def _double(number: int) -> int:
    return 2 * number


def test_results_come_in_the_order_of_tasks_with_a_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(in_parallel(_double, range(50), "numbers")) == list(range(0, 100, 2))
    assert capsys.readouterr().out.splitlines()[-1] == "numbers: 50 of 50"
    assert list(in_parallel(_double, [], "numbers")) == []
    assert capsys.readouterr().out == ""
