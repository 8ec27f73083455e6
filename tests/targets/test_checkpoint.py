"""Checkpoints that torch.save wrote, of which the most is hostile: one line each, and nothing runs."""

import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_scale.errors import UsageError
from ldm_scale.targets import checkpoint, unpickle
from ldm_scale.targets.checkpoint import read_checkpoint
from tests.targets.hostile import Trap

WEIGHTS = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.arange(3).half()}


def refused(path: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        read_checkpoint(path)
    assert str(raised.value).startswith(f"checkpoint {path}")
    assert "\n" not in str(raised.value)


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_tensors_come_out_as_they_were(tmp_path: Path) -> None:
    tied = torch.arange(6.0)
    content = OrderedDict(WEIGHTS, half=tied[::2], tied=tied, parameter=torch.nn.Parameter(torch.ones(1)))
    found = read_checkpoint(save(tmp_path / "weights.pt", content))
    assert found.keys() == content.keys()
    for name, tensor in content.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_pickle_that_runs_code_does_not(tmp_path: Path) -> None:
    path, mark = tmp_path / "trap.pt", tmp_path / "mark"
    Trap(mark).write(path)
    refused(path, "it asks for exec, which no tensor needs")
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


class Huge:
    """An object whose pickle asks for a terabyte, of types that torch's unpickler knows."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (1 << 40,)


def test_what_asks_for_much_memory_gets_none(tmp_path: Path) -> None:
    refused(save(tmp_path / "huge.pt", {"conv.weight": Huge()}), "it takes far more memory than its bytes need")


def test_what_takes_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.01)
    refused(save(tmp_path / "weights.pt", WEIGHTS), "takes more than 0 s to read")


def test_what_kills_the_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(unpickle, "__file__", str(program))
    refused(save(tmp_path / "weights.pt", WEIGHTS), "the process that read it ended")


def test_no_secret_is_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os, sys\nprint(*os.environ)\nsys.exit(3)\n")
    monkeypatch.setattr(unpickle, "__file__", str(program))
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(UsageError) as raised:
        read_checkpoint(save(tmp_path / "weights.pt", WEIGHTS))
    assert "PATH" in str(raised.value)
    assert "HF_TOKEN" not in str(raised.value)


def test_a_folder_and_a_file_that_is_too_large_are_no_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(tmp_path, "is no file of up to 16 GiB")
    monkeypatch.setattr(checkpoint, "LARGEST", 10)
    refused(save(tmp_path / "weights.pt", WEIGHTS), "is no file of up to 0 GiB")


NESTED = {"model": WEIGHTS, "ema": {"conv.bias": torch.zeros(1)}, "opt": {"lr": 0.1}, "epoch": 3}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (WEIGHTS, {"conv.weight", "conv.bias"}),
        (NESTED, {"model.conv.weight", "model.conv.bias", "ema.conv.bias"}),
    ],
)
def test_of_a_dict_of_dicts_those_of_tensors_alone_are_taken(content: Any, names: set[str]) -> None:
    assert unpickle.find_states(content).keys() == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "it holds a list, no dict of tensors"),
        (torch.ones(1), "it holds a Tensor, no dict of tensors"),
        ({}, "it is empty"),
        ({"a": torch.ones(1), "b": "text"}, "b is a str, no tensor"),
        ({3: torch.ones(1)}, "a key is a int, no name"),
        ({"model": {"a": [1]}, "epoch": 3}, "model: a is a list, no tensor"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "a is a torch.int64 tensor"),
        ({"a": torch.ones(2).to_sparse()}, "torch.sparse_coo"),
        ({"a": torch.ones(2, device="meta")}, "on meta"),
    ],
)
def test_what_is_no_dict_of_tensors_is_named(content: Any, message: str) -> None:
    with pytest.raises(unpickle.Refused, match=re.escape(message)):
        unpickle.find_states(content)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(number: float) -> None:
    """Nor are those that are none as they are stored."""
    with pytest.raises(unpickle.Refused, match=r"conv\.bias holds numbers that are not finite"):
        unpickle.check_tensors({"conv.bias": torch.tensor([1.0, number], dtype=torch.float64)}, 1000)


def test_a_name_that_safetensors_uses_itself_is_refused(tmp_path: Path) -> None:
    refused(save(tmp_path / "names.pt", {**WEIGHTS, "__metadata__": torch.ones(1)}), "its names cannot be stored")


def test_a_tensor_declares_no_more_than_the_file_holds() -> None:
    large = torch.ones(1).expand(1 << 40)
    with pytest.raises(unpickle.Refused, match="declare 4,398,046,511,104 bytes, and it has 1,000"):
        unpickle.check_tensors({"conv.bias": large}, 1000)


def test_an_archive_that_would_be_larger_unpacked_is_refused(tmp_path: Path) -> None:
    source, path = save(tmp_path / "weights.pt", {"conv.bias": torch.zeros(1 << 16)}), tmp_path / "bomb.pt"
    unpickle.check_archive(str(source))
    with zipfile.ZipFile(source) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    with pytest.raises(unpickle.Refused, match="it is compressed"):
        unpickle.check_archive(str(path))
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(unpickle.Refused, match=r"no file that torch\.save writes"):
        unpickle.check_archive(str(path))


def test_overlapping_entries_declare_more_than_there_is(tmp_path: Path) -> None:
    """A table of contents that names the same bytes again and again."""
    path = tmp_path / "overlap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(100_000))
        archive.filelist.extend([archive.filelist[0]] * 5)
    with pytest.raises(unpickle.Refused, match="it declares more bytes than it has"):
        unpickle.check_archive(str(path))
