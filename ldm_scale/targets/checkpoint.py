"""Checkpoints that torch.save wrote: their tensors, by way of a process that may die of them."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ldm_scale.errors import LONGEST, UsageError, one_line
from ldm_scale.targets import unpickle
from ldm_scale.targets.intake import OWN
from ldm_scale.terminal import printable

# Of a file. The largest of the authors', with the state of its optimiser, has 5 GB.
LARGEST = 16 << 30
# What the process may take: to start, and for each byte.
SECONDS, PACE = 120, 20e6
# All that it is given of the environment, in which there may be secrets.
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, floats that are finite; it is unpickled in a process of its own.

    Args:
        path: of a local file that torch.save wrote: a dict of tensors, or of such dicts, whose keys come first in the
            names.

    Raises:
        UsageError: It is no such file, or takes too much memory or time.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"checkpoint {path}: {error.strerror}") from None
    if not path.is_file() or size > LARGEST:
        raise UsageError(f"checkpoint {path} is no file of up to {LARGEST >> 30} GiB")
    with TemporaryDirectory(prefix=OWN) as folder:
        out = Path(folder, "tensors.safetensors")
        _unpickle(path, out, SECONDS + size / PACE)
        try:
            return load_file(out)
        except SafetensorError as error:
            # A name may be one that the format itself uses.
            raise UsageError(f"checkpoint {path}: its names cannot be stored ({one_line(error)})") from None


def _unpickle(path: Path, out: Path, seconds: float) -> None:
    # -P: what lies beside the program is not what torch means to import.
    command = [sys.executable, "-P", unpickle.__file__, str(path.absolute()), str(out)]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **kept}
    try:
        done = subprocess.run(command, env=hidden, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(f"checkpoint {path} takes more than {seconds:.0f} s to read; it is none") from None
    if done.returncode == 0:
        return
    said = done.stdout if done.returncode == unpickle.REFUSED else b"the process that read it ended"
    raise UsageError(f"checkpoint {path}: {printable(said.decode(errors='replace').strip())[:LONGEST]}")
