"""Tasks on a real Ray: in order, with a last line."""

from pathlib import Path

import pytest

from ldm_scale.engine.parallel import in_parallel
from ldm_scale.engine.session import session
from ldm_scale.errors import UnforeseenError
from ldm_scale.files.storage import Location

pytestmark = pytest.mark.usefixtures("local_ray")


def _double(number: int) -> int:
    return 2 * number


def test_results_come_in_the_order_of_tasks_with_a_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(in_parallel(_double, range(50), "numbers")) == list(range(0, 100, 2))
    assert capsys.readouterr().out.splitlines()[-1] == "numbers: 50 of 50"
    assert list(in_parallel(_double, [], "numbers")) == []
    assert capsys.readouterr().out == ""


def test_an_error_in_a_task_names_the_file_at_hand(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    expected = rf"^UnicodeDecodeError in .*read_text at {tmp_path}/latin\.txt: 'utf-8'"
    with pytest.raises(UnforeseenError, match=expected), session():
        list(in_parallel(Location.read_text, [Location.of(tmp_path / "latin.txt")], "files"))
