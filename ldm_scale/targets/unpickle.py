"""A program of its own: the tensors of a file that torch.save wrote, as safetensors. The file may be anyone's.

    python -P unpickle.py FILE OUT

It knows nothing of this package, so that it loads little. Exit status 0, or 3 with a line on standard output that says
why there is nothing.
"""

import os
import re
import resource
import sys
import zipfile
from typing import Any

import torch
from safetensors.torch import save_file

REFUSED = 3
# Of memory beyond three times the file: it as it is mapped, its tensors, and what is written.
ROOM = 1 << 30
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Refused(Exception):
    """There are no tensors of ours in the file."""


def limit(size: int) -> None:
    """Bound the memory of this process, and what it may write, for a file of so many bytes."""
    if sys.platform != "linux":
        # Others count what is mapped in other ways.
        return
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    memory = pages * resource.getpagesize() + 3 * size + ROOM
    for name, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size + ROOM), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(name, (most, most))


def check_archive(path: str) -> None:
    """Raise Refused if this is no archive that torch.save writes, or would be larger unpacked."""
    if not zipfile.is_zipfile(path):
        raise Refused("it is no file that torch.save writes (since torch 1.6)")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused("it is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise Refused("it declares more bytes than it has")


def fault(state: dict[Any, Any]) -> str | None:
    """What in a dict is no tensor of floats by a name; None if it is a state dict."""
    for name, value in state.items():
        if not isinstance(name, str):
            return f"a key is a {type(name).__name__}, no name"
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            return f"{name} is a {type(value).__name__}, no tensor"
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in FLOATS:
            return f"{name} is a {value.dtype} tensor, {value.layout}, on {value.device}: weights are plain floats"
    return None if state else "it is empty"


def find_states(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, or of all those in a dict, by name: `model.conv.weight` is that of `model`.

    What a dict holds beside its state dicts, an optimiser's state or an epoch, is left.
    """
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__}, no dict of tensors")
    parts = {key: value for key, value in content.items() if isinstance(value, dict)}
    whole = fault(content)
    if whole is None:
        return content
    states = {key: part for key, part in parts.items() if isinstance(key, str) and fault(part) is None}
    if not states:
        told = next((f"{key}: {fault(part)}" for key, part in parts.items()), whole)
        raise Refused(f"it holds no dict of tensors alone: {told}")
    return {f"{key}.{name}": tensor for key, part in states.items() for name, tensor in part.items()}


def check_tensors(tensors: dict[str, torch.Tensor], size: int) -> None:
    """Raise Refused if tensors hold more than the file does, or what is no number."""
    # A stride of 0 makes a large tensor of one number.
    if (declared := sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())) > size:
        raise Refused(f"its tensors declare {declared:,} bytes, and it has {size:,}")
    for name, tensor in tensors.items():
        # As they are stored.
        if not tensor.float().isfinite().all():
            raise Refused(f"{name} holds numbers that are not finite in float32")


def convert(path: str, out: str) -> None:
    """Write the tensors of a file as safetensors."""
    size = os.path.getsize(path)
    limit(size)
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch's own message says how to run what is there all the same.
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise Refused(f"it asks for {asked[1]}, which no tensor needs") from None
        raise
    tensors = find_states(content)
    check_tensors(tensors, size)
    # Each in a memory of its own, as safetensors wants them.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)


def main() -> int:
    """Convert the file of the command line; the exit status."""
    torch.set_num_threads(1)
    try:
        convert(*sys.argv[1:])
    except Refused as refusal:
        said = str(refusal)
    except MemoryError:
        said = "it takes far more memory than its bytes need"
    except Exception as error:
        # Whatever torch and its readers raise: none of them is a bug of the user's.
        said = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        return 0
    sys.stdout.write(said)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
